"""Defers heavy imports of the libraries that a run does not use: more than half of all import time.

torchvision, Lightning and torchmetrics import torch's compiler (`torch._dynamo`, with sympy behind it), matplotlib,
SciPy and Triton for a class in a type check or for a decorator. While one of the modules below is imported, a
stand-in is in `sys.modules` instead; afterwards the real package can be imported, to which the stand-in's names
delegate. So all works as usual, and pays for the import when it is used. This holds in tlab's commands and in the
processes that they start, not in a program that imports tlab as a library.
"""

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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


class _Later(type):
    """Type of what a stand-in has for a class or a function, which is imported when it is called.

    For `isinstance` its instances are those of the real class, once something else has imported that.
    """

    def __instancecheck__(cls, instance: object) -> bool:
        real = getattr(sys.modules.get(cls.__module__), cls.__name__, None)
        return real not in (None, cls) and isinstance(instance, real)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._real()(*args, **kwargs)

    @contextmanager
    def context(cls, style: Any) -> Iterator[None]:
        """Do what `matplotlib.style.context` does, which decorates functions, when one of these is called."""
        with cls._real().context(style):
            yield

    def _real(cls) -> Any:
        return getattr(importlib.import_module(cls.__module__), cls.__name__)


class _StandIn(ModuleType):
    """A package with the names needed at import; any other name is taken from the real package on first use."""

    def __init__(self, package: str, names: Sequence[str]) -> None:
        super().__init__(package)
        self.__spec__ = ModuleSpec(package, None)  # TorchMetrics reads it
        vars(self).update({name: _Later(name, (), {"__module__": package}) for name in names})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or sys.modules.get(self.__name__) is self:
            raise AttributeError(f"the stand-in for {self.__name__} has no {name}")
        return getattr(importlib.import_module(self.__name__), name)


# Module -> the packages for which it finds stand-ins while it is imported, parents first, and the names in them.
STAND_INS: dict[str, dict[str, Sequence[str]]] = {
    "torchvision.ops.roi_align": {f"{COMPILER}.utils": ["is_compile_supported"]},
    "lightning.fabric.wrappers": {COMPILER: ["OptimizedModule"]},
    "lightning.pytorch.utilities.compile": {COMPILER: ["OptimizedModule"]},
    "torch.utils.flop_counter": {"triton": [], "triton.runtime": [], "triton.runtime.jit": ["JITFunction"]},
    "torchmetrics": {"scipy": [], "scipy.signal": ["hamming"]},  # which it patches in where it is missing
    "torchmetrics.utilities.plot": {
        "matplotlib": [],
        "matplotlib.axes": ["Axes"],
        "matplotlib.colors": ["Colormap"],
        "matplotlib.pyplot": ["Figure", "style"],
    },
}


def _with_grad_where_differentiable(step: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an optimizer's step as torch does, without the graph break for the compiler."""

    @functools.wraps(step)
    def call(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        with importlib.import_module("torch").set_grad_enabled(optimizer.defaults["differentiable"]):
            return step(optimizer, *args, **kwargs)

    return call


# Module -> (its decorator that imports the compiler, at once or when the decorated function is called; what that
# decorator does besides, if anything). Every run uses them all.
DECORATORS = {
    "torch._compile": ("_disable_dynamo", None),
    "torch.compiler": ("disable", None),
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
    missing: dict[str, ModuleType] = {}
    for package, names in STAND_INS[module.__name__].items():
        if package not in sys.modules:
            missing[package] = _StandIn(package, names)
            parent, _, name = package.rpartition(".")
            if parent in missing:
                setattr(missing[parent], name, missing[package])
    sys.modules.update(missing)
    try:
        execute(module)
        return
    except (ImportError, AttributeError, ValueError):  # a version that this was not written for
        pass
    finally:
        for package in missing:
            sys.modules.pop(package, None)
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
        compiled = functools.cache(lambda: original(fn, *args, **options))
        plain = fn if light is None else light(fn)

        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            return (compiled() if COMPILER in sys.modules else plain)(*args, **kwargs)

        return call

    setattr(module, name, decorator)
