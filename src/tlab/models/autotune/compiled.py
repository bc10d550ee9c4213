"""A training forward pass through torch's compiler (Ansel et al. 2024, "PyTorch 2", ASPLOS)."""

import logging
import os
import time
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from tlab.core.error_messages import one_line
from tlab.core.errors import UserError
from tlab.core.files import cache_dir
from tlab.models.autotune.precision import autocast, timed_step, timing_copy
from tlab.models.classifier import Classifier

log = logging.getLogger(__name__)

Groups = frozenset[str]  # names of the groups that train together in a phase
Trained = Callable[[Classifier, Tensor, str], Tensor]
GRAPHS = 64  # limit on compiled graphs, one per set of trainable groups; torch's default is 8
STEPS = 5  # timed training steps; the first ones warm up


class CompiledTraining:
    """Calls a `Classifier` like the network itself, but with its trainable part compiled by torch.

    One graph is compiled per set of trainable groups, at its first full batch. Everything else runs uncompiled:
    stages before the first trainable one, evaluation, batches of another size (the last of an epoch), and phases
    that train only the head. So no graph is recompiled for a shape or a mode. No module is changed or wrapped:
    parameter names, copies of the network and checkpoints are unaffected. If compiling fails, the network runs
    uncompiled from then on, after one warning.

    Args:
        net: The network; the caller sets its memory format, device and precision.
        compiled: The sets of groups for which a graph is compiled.
        batch_size: Images in a full batch.
        backend: Backend of `torch.compile`.
    """

    def __init__(
        self, net: Classifier, compiled: Collection[Groups], batch_size: int, backend: str = "inductor"
    ) -> None:
        self.net = net
        self.compiled = frozenset(compiled)
        self.batch_size = batch_size
        self.backend = backend
        self._met: set[Groups] = set()
        self._run: Trained | None = None
        self._first_began: float | None = None  # start of the step that compiles, until the next one

    def __call__(self, x: Tensor, after: str = "") -> Tensor:
        """Return the logits `B K`; arguments as for `Classifier.forward`."""
        net = self.net
        whole = len(x) == self.batch_size and net.training and torch.is_grad_enabled()
        if not whole or net.trainable not in self.compiled:
            return net(x, after)
        x, after = net.frozen_part(x, after)
        new = net.trainable not in self._met
        if new:
            self._met.add(net.trainable)
            self._first_began = time.perf_counter()
            log.info("what trains is being compiled, which may take a minute")
        elif self._first_began is not None:  # now that its backward pass has been compiled too
            log.info("it is compiled, which took %.0f s", time.perf_counter() - self._first_began)
            self._first_began = None
        try:
            self._run = self._run or compiler(self.backend)
            return self._run(net, x, after)
        except Exception as error:  # compilers and their missing tools raise any type
            if not new:
                raise
            reason = one_line(getattr(error, "inner_exception", error))  # of torch's BackendCompilerFailed
            log.warning("torch.compile failed here, so the run goes on without it (%s)", reason)
            self.compiled = frozenset()
            return net.trained_part(x, after)


def step_seconds(
    net: Classifier,
    groups: Groups,
    batch_size: int,
    image_size: int,
    device: str,
    precision: str,
    channels_last: bool,
) -> float:
    """Return the seconds of an uncompiled training step on a copy of the network, the fastest of a few.

    Only what a graph would hold is timed: forward and backward pass from the first trainable stage, without the
    frozen stages before it (their output may be cached) and the optimizer. The random state is restored.

    Args:
        net: The network; left unchanged.
        groups: Groups that train.
        batch_size: Images per step.
        image_size: Side of the images in pixels.
        device: Device that computes the step.
        precision: `32-true`, `bf16-mixed` or `16-mixed`.
        channels_last: Whether to use channels-last memory format.

    Raises:
        RuntimeError: A step does not fit into the device's memory.
        ValueError: The network cannot be trained on so few images (BatchNorm over a single value).
    """
    with torch.random.fork_rng([device] if device == "cuda" else []):
        twin, images = timing_copy(net, groups, batch_size, image_size, device, channels_last)
        with autocast(images.device, precision):
            x, after = twin.frozen_part(images)
        return min(timed_step(twin, x, after, precision) for _ in range(STEPS))


def compiler(backend: str = "inductor") -> Trained:
    """Return `Classifier.trained_part`, compiled; Inductor keeps its output in the cache directory for later runs.

    Dropout draws the same random numbers as uncompiled.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled"))
    import torch._dynamo  # takes seconds

    limit: Any = torch._dynamo.config
    limit.recompile_limit = max(limit.recompile_limit, GRAPHS)
    # It warns at the first graph on a machine with CUDA's tools but no GPU
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    options: Any = {"fallback_random": True} if backend == "inductor" else None
    return torch.compile(Classifier.trained_part, dynamic=False, backend=backend, options=options)


def check_compiler(device: str) -> None:
    """Check that torch.compile works here, on a minimal graph.

    Raises:
        UserError: It does not: a C++ compiler or Triton is missing, or the platform is not supported.
    """
    try:
        compiler()  # for its settings
        torch.compile(lambda x: x + 1)(torch.zeros(8, device=device))
    except Exception as error:
        reason = one_line(getattr(error, "inner_exception", error))  # of torch's BackendCompilerFailed
        needed = "Triton (it comes with torch on Linux)" if device == "cuda" else "a C++ compiler, for instance g++"
        raise UserError(
            f"trainer.compile=true: torch.compile does not work here ({reason}); install {needed}, "
            "or give trainer.compile=auto"
        ) from error
