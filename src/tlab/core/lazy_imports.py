"""Defers heavy imports of the libraries that a run does not use: more than half of all import time.

torchvision, Lightning and torchmetrics import torch's compiler (`torch._dynamo`, with sympy behind it), matplotlib,
SciPy and Triton for a class in a type check or for a decorator. While one of the modules below is imported, such a
package is replaced by a stand-in. Afterwards the stand-in is removed from `sys.modules`: importing the package
gives the real one, to which names taken from the stand-in delegate. So `torch.compile`, plotting a metric and
torchvision's detection operators work as usual; they pay for the import when they are used.

This holds in tlab's commands and in the processes that they start, not in a program that imports tlab as a library.
"""

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
INHERITED = "TLAB_DEFER_IMPORTS"  # environment variable that makes child processes defer them, too


def defer_heavy_imports() -> None:
    """Import the modules of `STAND_INS` from now on with stand-ins, here and in child processes."""
    os.environ[INHERITED] = "1"
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _class_of(module: str, name: str) -> type:
    """Return a class for `isinstance` only: its instances are those of the real class, once that is imported."""

    class Instances(type):
        def __instancecheck__(cls, instance: object) -> bool:
            real = getattr(sys.modules.get(module), name, None)
            return real not in (None, cls) and isinstance(instance, real)

    return Instances(name, (), {"__module__": module})


def _function_of(module: str, name: str) -> Callable[..., Any]:
    """Return a function that imports the real one when it is called."""

    def function(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*args, **kwargs)

    return function


class _Styles:
    """Stands in for `matplotlib.style`: a decorated function looks its style up when it is called."""

    @staticmethod
    def context(style: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def decorate(draw: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(draw)
            def call(*args: Any, **kwargs: Any) -> Any:
                with importlib.import_module("matplotlib.pyplot").style.context(style):
                    return draw(*args, **kwargs)

            return call

        return decorate


class _StandIn(ModuleType):
    """A package with the names needed at import; any other name is taken from the real package on first use."""

    def __init__(self, name: str, content: Mapping[str, Any]) -> None:
        super().__init__(name)
        vars(self).update(content)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or sys.modules.get(self.__name__) is self:
            raise AttributeError(f"the stand-in for {self.__name__} has no {name}")
        return getattr(importlib.import_module(self.__name__), name)


def _matplotlib() -> dict[str, ModuleType]:
    axes = _StandIn("matplotlib.axes", {"Axes": _class_of("matplotlib.axes", "Axes")})
    colors = _StandIn("matplotlib.colors", {"Colormap": _class_of("matplotlib.colors", "Colormap")})
    figure = _class_of("matplotlib.figure", "Figure")
    pyplot = _StandIn("matplotlib.pyplot", {"Figure": figure, "style": _Styles})
    package = _StandIn("matplotlib", {"axes": axes, "colors": colors, "pyplot": pyplot})
    return {module.__name__: module for module in (package, axes, colors, pyplot)}


def _compiler() -> dict[str, ModuleType]:
    name = "OptimizedModule"
    return {COMPILER: _StandIn(COMPILER, {name: _class_of(f"{COMPILER}.eval_frame", name)})}


def _compiler_support() -> dict[str, ModuleType]:
    name = "is_compile_supported"
    return {f"{COMPILER}.utils": _StandIn(f"{COMPILER}.utils", {name: _function_of(f"{COMPILER}.utils", name)})}


def _triton() -> dict[str, ModuleType]:
    name = "triton.runtime.jit"
    jit = _StandIn(name, {"JITFunction": _class_of(name, "JITFunction")})
    return {"triton": _StandIn("triton", {}), "triton.runtime": _StandIn("triton.runtime", {}), name: jit}


def _scipy() -> dict[str, ModuleType]:
    """Return the function that TorchMetrics patches into SciPy where it is missing, for an audio metric."""
    signal = _StandIn("scipy.signal", {"hamming": None})
    package = _StandIn("scipy", {"signal": signal, "__spec__": ModuleSpec("scipy", None)})  # TorchMetrics reads it
    return {"scipy": package, "scipy.signal": signal}


# Module -> the stand-ins that it finds while it is imported.
STAND_INS: dict[str, Callable[[], dict[str, ModuleType]]] = {
    "torchvision.ops.roi_align": _compiler_support,
    "lightning.fabric.wrappers": _compiler,
    "lightning.pytorch.utilities.compile": _compiler,
    "torch.utils.flop_counter": _triton,
    "torchmetrics": _scipy,
    "torchmetrics.utilities.plot": _matplotlib,
}


def _as_it_is(fn: Callable[..., Any]) -> Callable[..., Any]:
    return fn


def _with_grad_where_differentiable(step: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an optimizer's step as torch does, without the graph break for the compiler."""

    @functools.wraps(step)
    def call(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        with importlib.import_module("torch").set_grad_enabled(optimizer.defaults["differentiable"]):
            return step(optimizer, *args, **kwargs)

    return call


# Module -> (its decorator that imports the compiler, at once or when the decorated function is called; what that
# decorator does besides). Every run uses them all.
DECORATORS = {
    "torch._compile": ("_disable_dynamo", _as_it_is),
    "torch.compiler": ("disable", _as_it_is),
    "torch.optim.optimizer": ("_use_grad_for_differentiable", _with_grad_where_differentiable),
}


class _Finder(MetaPathFinder):
    """Finds the modules named above as Python does, but with a loader that defers their heavy imports."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module named above, None for any other."""
        if fullname not in STAND_INS and fullname not in DECORATORS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            how = _with_stand_ins if fullname in STAND_INS else _with_light_decorator
            spec.loader.exec_module = functools.partial(how, spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def _with_stand_ins(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    """Import `module` with its stand-ins, or without if it needs more than they have."""
    missing = {name: made for name, made in STAND_INS[module.__name__]().items() if name not in sys.modules}
    sys.modules.update(missing)
    try:
        execute(module)
        return
    except (
        ImportError,
        AttributeError,
        ValueError,
    ):  # a version that this was not written for
        pass
    finally:
        for name in missing:
            sys.modules.pop(name, None)
    execute(module)


def _with_light_decorator(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    """Import `module`, and keep its decorator from importing the compiler before something else does."""
    execute(module)
    name, light = DECORATORS[module.__name__]
    original = getattr(module, name, None)
    if original is None:  # another version of torch
        return

    @functools.wraps(original)
    def decorator(fn: Callable[..., Any] | None = None, *args: Any, **options: Any) -> Any:
        if fn is None:
            return lambda fn: decorator(fn, *args, **options)
        if COMPILER in sys.modules or not inspect.isfunction(fn):
            return original(fn, *args, **options)
        return _not_compiled(light(fn), functools.cache(lambda: original(fn, *args, **options)))

    setattr(module, name, decorator)


def _not_compiled(fn: Callable[..., Any], decorated: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    """Return a function that calls `fn` until the compiler is imported, and `decorated()` from then on."""

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (decorated() if COMPILER in sys.modules else fn)(*args, **kwargs)

    return call
