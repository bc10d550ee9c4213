"""Training steps timed with and without torch's compiler, on a copy of the network."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tlab.cores import one_thread
from tlab.models.classifier import Classifier
from tlab.models.compiling import Trained, compiler
from tlab.models.precision import Precision, autocast, processor

ROUNDS = 5  # at least, unless they take longer than BUDGET
LEAST = 5.0  # seconds of timing: what else the machine does comes and goes
BUDGET = 20.0  # seconds after which no further round is timed
FEW = 2  # images that tell a CPU's speed
STEPS = 3
WARM_UP = 1.0  # seconds of a first step that counts itself: what warming up adds to it is little


@dataclass(frozen=True)
class Setting:
    """What the speed of a training step depends on, besides the network.

    Attributes:
        name: Names the network in the memory.
        image_size: Side of the images in pixels.
        batch_size: Images of a step, in one process.
        accelerator: `cpu`, `cuda` or `mps`.
        precision: `32-true`, `bf16-mixed` or `16-mixed`.
        channels_last: Memory format.
    """

    name: str
    image_size: int
    batch_size: int
    accelerator: str
    precision: Precision
    channels_last: bool

    @property
    def key(self) -> str:
        """Under which the speeds are remembered."""
        on_gpu = self.accelerator == "cuda"
        hardware = torch.cuda.get_device_name() if on_gpu else f"{processor()} x{torch.get_num_threads()}"
        parts = (hardware, torch.__version__, self.name, self.image_size, self.batch_size, self.precision)
        return "|".join(map(str, (*parts, self.channels_last)))


@dataclass(frozen=True)
class Trial:
    """What trying it out has shown.

    Attributes:
        eager: Images per second without a compiler.
        compiled: Images per second compiled.
        seconds: That compiling took.
        again: Seconds that it takes now, when the cache directory has the graph.
    """

    eager: float
    compiled: float
    seconds: float
    again: float


def eager_speed(net: Classifier, setting: Setting) -> float:
    """Return about how many images per second a training step of the whole network takes, without the optimiser.

    A GPU is timed with whole batches. On a CPU one core computes a few images, only the time that it gives to this
    thread counts, and all cores are taken to do as much: on a busy machine nothing else is worth measuring.
    """
    if setting.accelerator != "cpu":
        with _Steps(net, setting, setting.batch_size) as steps:
            return setting.batch_size / min(steps.seconds(_eager) for _ in range(STEPS))
    threads = torch.get_num_threads()
    with _Steps(net, setting, FEW) as steps, one_thread():
        seconds = [steps.seconds(_eager, time.thread_time)]
        while len(seconds) < STEPS and sum(seconds) < WARM_UP:
            seconds.append(steps.seconds(_eager, time.thread_time))
    return threads * FEW / max(min(seconds), 1e-6)


def try_out(net: Classifier, setting: Setting) -> Trial:
    """Compile a copy of the network, all of which trains, and time it in turns with one that is not compiled.

    The fastest of a few steps of each counts. The network and the random state stay as they are.
    """
    run = compiler()
    with _Steps(net, setting, setting.batch_size) as steps:
        eager = min(steps.seconds(_eager) for _ in range(2))
        cold = steps.seconds(run)
        torch._dynamo.reset()
        warm = steps.seconds(run)
        compiled = steps.seconds(run)
        started, rounds = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - started) < LEAST or (rounds < ROUNDS and elapsed < BUDGET):
            eager = min(eager, steps.seconds(_eager))
            compiled = min(compiled, steps.seconds(run))
            rounds += 1
    torch._dynamo.reset()  # lets go of the copy
    speeds = (round(setting.batch_size / seconds, 2) for seconds in (eager, compiled))
    return Trial(*speeds, *(round(max(0.0, seconds - compiled), 1) for seconds in (cold, warm)))


class _Steps:
    """Training steps of a copy of the network, all of which trains; the random state is as it was afterwards."""

    def __init__(self, net: Classifier, setting: Setting, batch_size: int) -> None:
        self.device = torch.device(setting.accelerator)
        self.precision = setting.precision
        format_ = torch.channels_last if setting.channels_last else torch.contiguous_format
        x = torch.zeros(batch_size, 3, setting.image_size, setting.image_size, dtype=torch.uint8)
        self.x = x.to(self.device, memory_format=format_)
        self.label = torch.zeros(batch_size, dtype=torch.long, device=self.device)
        self.net = copy.deepcopy(net)
        self.net.set_trainable(net.group_names)
        self.net.train().to(self.device).to(memory_format=format_)
        self._random = torch.random.fork_rng([self.device] if self.device.type == "cuda" else [])

    def __enter__(self) -> "_Steps":
        self._random.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._random.__exit__(*error)

    def seconds(self, run: Trained, clock: Callable[[], float] = time.perf_counter) -> float:
        """Return how long one step takes."""
        self.net.zero_grad()
        started = clock()
        with torch.enable_grad(), autocast(self.device, self.precision):
            logits: Tensor = run(self.net, self.x, "")
            loss = F.cross_entropy(logits.float(), self.label)
        loss.backward()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return clock() - started


def _eager(net: Classifier, x: Tensor, after: str) -> Tensor:
    return net.trained_part(x, after)
