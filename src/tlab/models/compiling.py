"""A training forward pass that goes through torch's compiler (Ansel et al. 2024, "PyTorch 2", ASPLOS)."""

import logging
import os
import time
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from tlab.cache import cache_dir
from tlab.errors import UserError
from tlab.models.classifier import Classifier

log = logging.getLogger(__name__)

Groups = frozenset[str]  # names of those that train together in a phase
Trained = Callable[[Classifier, Tensor, str], Tensor]
GRAPHS = 64  # one for each set of groups that train; torch itself gives up after 8


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
        note: Told the groups and the seconds of a first step, which compiles.
    """

    def __init__(
        self,
        net: Classifier,
        compiled: Collection[Groups],
        batch_size: int,
        backend: str = "inductor",
        note: Callable[[Groups, float], None] | None = None,
    ) -> None:
        self.net = net
        self.compiled = frozenset(compiled)
        self.batch_size = batch_size
        self.backend = backend
        self.note = note
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
            self._tell(time.perf_counter() - self._first_began)
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

    def _tell(self, seconds: float) -> None:
        self._first_began = None
        log.info("it is compiled, which took %.0f s", seconds)
        if self.note is not None:
            self.note(self.net.trainable, seconds)


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
