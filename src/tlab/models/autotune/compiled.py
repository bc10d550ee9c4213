"""A training forward pass that goes through torch's compiler (Ansel et al. 2024, "PyTorch 2", ASPLOS)."""

import copy
import logging
import os
import time
from collections.abc import Callable, Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tlab.core.errors import UserError
from tlab.core.files import cache_dir
from tlab.models.autotune.precision import autocast
from tlab.models.classifier import Classifier

log = logging.getLogger(__name__)

Groups = frozenset[str]  # names of those that train together in a phase
Trained = Callable[[Classifier, Tensor, str], Tensor]
GRAPHS = 64  # one for each set of groups that train; torch itself gives up after 8
STEPS = 5  # that are timed; the first ones warm up


class CompiledTraining:
    """Calls a `Classifier` like the network itself, but runs what trains through torch's compiler.

    One graph is compiled for each set of groups that train, at the first whole batch that meets it. Everything else
    is left to the network as it is: stages before the first one that trains, evaluation, batches of another size
    (the last of an epoch), and phases that only train the head. So nothing is compiled twice for a shape or a mode.
    No module is changed or wrapped: names of parameters, copies of the network and checkpoints are as ever.

    Where compiling fails, the network runs as it is from then on, after one warning.

    Args:
        net: Trains; its memory format, device and precision are the caller's affair.
        compiled: The sets of groups for which a graph is compiled.
        batch_size: Of whole batches.
        backend: Of torch.compile.
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
        self._first_began: float | None = None  # the step in which all is compiled, while it lasts

    def __call__(self, x: Tensor, after: str = "") -> Tensor:
        """Return the logits `B K`; arguments as for `Classifier.forward`."""
        net = self.net
        whole = len(x) == self.batch_size and net.training and torch.is_grad_enabled()
        if not whole or net.trainable not in self.compiled:
            return net(x, after)
        x, after = net.frozen_part(x, after)
        if self._run is None or net.trainable not in self._met:
            return self._first(x, after)
        if self._first_began is not None:  # now that its backward pass has been compiled too
            log.info("it is compiled, which took %.0f s", time.perf_counter() - self._first_began)
            self._first_began = None
        return self._run(net, x, after)

    def _first(self, x: Tensor, after: str) -> Tensor:
        self._first_began = time.perf_counter()
        log.info("what trains is being compiled, which may take a minute")
        try:
            self._run = self._run or compiler(self.backend)
            logits = self._run(self.net, x, after)
        except Exception as error:  # compilers, and what they find missing, raise all kinds
            log.warning("torch.compile failed here, so the run goes on without it (%s)", reason(error))
            self.compiled = frozenset()
            return self.net.trained_part(x, after)
        self._met.add(self.net.trainable)
        return logits


def step_seconds(
    net: Classifier,
    groups: Groups,
    batch_size: int,
    image_size: int,
    device: str,
    precision: str,
    channels_last: bool,
) -> float:
    """Return the seconds of a training step without a compiler, the fastest of a few, on a copy of the network.

    What a graph would hold counts: forward and backward pass from the first stage that trains on, and neither what
    is frozen before it (its results may be stored) nor the optimizer. The random state is as it was afterwards.

    Args:
        net: Left as it is.
        groups: That train.
        batch_size: Images of a step.
        image_size: Side of the images in pixels.
        device: Where the step is computed.
        precision: `32-true`, `bf16-mixed` or `16-mixed`.
        channels_last: Memory format.

    Raises:
        RuntimeError: The device has no memory for a step.
        ValueError: The network cannot be trained on so few images (BatchNorm over a single value).
    """
    format_ = torch.channels_last if channels_last else torch.contiguous_format
    with torch.random.fork_rng([device] if device == "cuda" else []):
        twin = copy.deepcopy(net)
        twin.set_trainable(groups)
        twin.train().to(device).to(memory_format=format_)
        images = torch.zeros(batch_size, 3, image_size, image_size, dtype=torch.uint8)
        with autocast(torch.device(device), precision):
            x, after = twin.frozen_part(images.to(device, memory_format=format_))
        return min(timed_step(twin, x, after, precision) for _ in range(STEPS))


def timed_step(
    net: Classifier, x: Tensor, after: str, precision: str, run: Trained = Classifier.trained_part
) -> float:
    """Take a training step of what trains, without an optimizer, and return its seconds.

    Args:
        net: Trains; its gradients are those of this step afterwards.
        x: What `frozen_part` has returned, like `after`; it lies on the device of the network.
        after: The last stage that x has been through.
        precision: As of `step_seconds`.
        run: `Classifier.trained_part`, or what `compiler` makes of it.
    """
    net.zero_grad()
    labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
    started = time.perf_counter()
    with torch.enable_grad(), autocast(x.device, precision):
        loss = F.cross_entropy(run(net, x, after).float(), labels)
    loss.backward()
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - started


def compiler(backend: str = "inductor") -> Trained:
    """Return `Classifier.trained_part` with torch's compiler; what that makes is kept in the cache directory.

    Inductor finds there what an earlier run has compiled. Dropout draws the numbers that it would without it.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled"))
    import torch._dynamo  # takes seconds

    limit: Any = torch._dynamo.config
    limit.recompile_limit = max(limit.recompile_limit, GRAPHS)
    # On a machine with CUDA's tools and without a GPU it says so at the first graph
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    options: Any = {"fallback_random": True} if backend == "inductor" else None
    return torch.compile(_trained_part, dynamic=False, backend=backend, options=options)


def check_compiler(device: str) -> None:
    """Compile the smallest graph there is.

    Raises:
        UserError: It does not work here: a C++ compiler or Triton is missing, or the platform has none.
    """
    try:
        compiler()  # for its settings
        torch.compile(_increment)(torch.zeros(8, device=device))
    except Exception as error:
        needed = "Triton (it comes with torch on Linux)" if device == "cuda" else "a C++ compiler, for instance g++"
        raise UserError(
            f"trainer.compile=true: torch.compile does not work here ({reason(error)}); install {needed}, "
            "or give trainer.compile=auto"
        ) from error


def reason(error: Exception) -> str:
    """Return the first line of a compiler's long message, with the error's name."""
    error = getattr(error, "inner_exception", error)  # of torch's BackendCompilerFailed
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}"[:200] if lines else type(error).__name__


def _trained_part(net: Classifier, x: Tensor, after: str) -> Tensor:
    return net.trained_part(x, after)


def _increment(x: Tensor) -> Tensor:
    return x + 1
