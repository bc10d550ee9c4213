"""The fastest precision for a model on this machine."""

import copy
import platform
import re
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tlab.core.errors import UserError
from tlab.core.files import this_command
from tlab.core.hardware import single_threaded
from tlab.core.measurements import measurements
from tlab.models.classifier import Classifier

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
IMAGES = 2  # timed images; few suffice, since casting the weights to bf16 is not timed
ROUNDS = 5
BUDGET = 0.5  # seconds after which no further round is timed
WARM_UP = 2.0  # seconds of a first round, which is slower, after which no second one is timed
CLEAR = 1.1  # factor by which one precision must be faster; less may be noise from other processes


def fastest_precision(
    net: Classifier, image_size: int, accelerator: str, channels_last: bool, name: str, head_only: bool = False
) -> tuple[Precision, str]:
    """Return the fastest precision and the reason in words.

    On a GPU it is bf16 where supported, else fp16. On a CPU fp32 and bf16 are timed on a few images: a training
    step, or a forward pass where the plan trains only the head. The result is cached by processor, model, image
    size and torch version. Without a clear difference it is fp32, and the next command measures again; the fastest
    measurement of each precision counts. All runs of one command get the same result, in whichever process.

    Args:
        net: The network; left unchanged.
        image_size: Side of the images in pixels.
        accelerator: `cpu`, `cuda` or `mps`.
        channels_last: Whether training uses channels-last memory format.
        name: Name of the model in the cache.
        head_only: Whether the backbone only computes features.
    """
    if accelerator == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", "the GPU computes bf16"
        return "16-mixed", "the GPU computes fp16 but not bf16"
    if accelerator != "cpu":
        return "32-true", f"no faster precision is known for {accelerator}"
    what = "forward" if head_only else "training"
    key = "|".join(map(str, (processor(), torch.__version__, name, image_size, channels_last, what)))
    with measurements("precision") as known:
        entry = known.get(key, {})
        speeds = entry.get("speeds", {})  # there are none in an entry of an earlier tlab
        if not speeds or (_winner(speeds) is None and entry.get("command") != this_command()):
            measured = measure(net, image_size, channels_last, head_only)
            speeds = {precision: max(speed, speeds.get(precision, 0.0)) for precision, speed in measured.items()}
            known[key] = {"speeds": speeds, "command": this_command()}
    figures = ", ".join(f"{precision} {speed:.0f}" for precision, speed in speeds.items())
    best = _winner(speeds)
    unclear = "" if best else " (no clear difference)"
    return best or "32-true", f"{what} images/s on one core here: {figures}{unclear}"


def _winner(speeds: dict[Precision, float]) -> Precision | None:
    """Return the precision that is clearly faster than the other, if there is one."""
    slow, fast = sorted(speeds, key=lambda precision: speeds[precision])
    return fast if speeds[fast] >= CLEAR * speeds[slow] else None


def allow_tf32(allowed: bool = True) -> None:
    """Let CUDA multiply fp32 numbers in TF32, several times faster, or not; torch's default: in convolutions."""
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which Lightning runs a network in `precision`; on CPUs, where fp16 is slow, in bf16."""
    half = torch.float16 if precision == "16-mixed" and device.type != "cpu" else torch.bfloat16
    return torch.autocast(device.type, half, enabled=precision.endswith("-mixed"))


def find_accelerator(asked: str, key: str = "trainer.accelerator") -> str:
    """Return `cuda`, `mps` or `cpu` for `auto`, `gpu` or one of these, as `key` asks for it.

    Raises:
        UserError: This machine has no such device.
    """
    here = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if asked == "auto" or (asked == "gpu" and len(here) > 1):
        return here[0]
    if asked in here:
        return asked
    raise UserError(f"{key}={asked}: there is none here that torch can use; give {key}=auto")


def measure(net: Classifier, image_size: int, channels_last: bool, head_only: bool) -> dict[Precision, float]:
    """Return images per second of one core's CPU time in fp32 and bf16, the best of a few alternating rounds.

    One core computes, and only this thread's CPU time counts: several cores would wait for one that another program
    uses, and the time would say nothing about either precision. With `head_only` a forward pass in evaluation mode
    is timed, else a training step of the whole network; arguments as for `fastest_precision`.
    """
    fastest: dict[Precision, float] = {"32-true": 0.0, "bf16-mixed": 0.0}
    with torch.random.fork_rng(devices=[]), single_threaded():
        twin, images = timing_copy(net, net.group_names, IMAGES, image_size, "cpu", channels_last)
        twin.train(not head_only)
        started = time.perf_counter()
        # The outer context caches the weights that the inner one casts
        with torch.autocast("cpu", torch.bfloat16):
            for round_ in range(ROUNDS):
                for precision in fastest:
                    seconds = timed_step(
                        twin, images, "", precision, backward=not head_only, clock=time.thread_time
                    )
                    fastest[precision] = max(fastest[precision], IMAGES / max(seconds, 1e-6))
                if time.perf_counter() - started > (BUDGET if round_ else WARM_UP):
                    break
    return {precision: round(speed, 1) for precision, speed in fastest.items()}


def timing_copy(
    net: Classifier, groups: Collection[str], batch_size: int, image_size: int, device: str, channels_last: bool
) -> tuple[Classifier, Tensor]:
    """Return a copy of the network that trains `groups` on a device, and blank images for it (uint8)."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    twin = copy.deepcopy(net)
    twin.set_trainable(groups)
    images = torch.zeros(batch_size, 3, image_size, image_size, dtype=torch.uint8)
    return twin.train().to(device).to(memory_format=layout), images.to(device, memory_format=layout)


def timed_step(
    net: Classifier,
    x: Tensor,
    after: str,
    precision: str,
    run: Callable[[Classifier, Tensor, str], Tensor] = Classifier.trained_part,
    backward: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the seconds of a forward and backward pass of the trainable part.

    Args:
        net: The network; afterwards it holds the gradients of this step.
        x: Output of `frozen_part`, on the network's device.
        after: The last stage that x has been through.
        precision: `32-true`, `bf16-mixed` or `16-mixed`.
        run: `Classifier.trained_part`, or its compiled version from `compiled.compiler`.
        backward: Whether to time a backward pass too.
        clock: Function that returns the time in seconds.
    """
    net.zero_grad()
    labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
    started = clock()
    with torch.set_grad_enabled(backward), autocast(x.device, precision):
        loss = F.cross_entropy(run(net, x, after).float(), labels)
    if backward:
        loss.backward()
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
    return clock() - started


def processor() -> str:
    """Return the processor's model name."""
    with suppress(OSError):
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"^model name.*?:(.*)", cpuinfo, re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine()
