"""Which precision is fastest for this model on the hardware found."""

import copy
import json
import platform
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F

from tlab.cache import cache_dir, write_text
from tlab.errors import UserError
from tlab.models.classifier import Classifier

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
ROUNDS = 3
BUDGET = 4.0  # seconds after which no further round is timed


def fastest_precision(
    net: Classifier, image_size: int, batch_size: int, accelerator: str, channels_last: bool, name: str
) -> tuple[Precision, str]:
    """Return the fastest precision and why, in words.

    On a GPU bf16 where it is supported, else fp16. On a CPU a few training steps are timed in both precisions
    and the answer is remembered in the cache directory for this processor, model, size and torch version.

    Args:
        net: Left as it is; a copy is timed.
        image_size: Side of the images in pixels.
        batch_size: Images in a step; 2 to 16 are timed.
        accelerator: `cpu`, `cuda` or `mps`.
        channels_last: Memory format that training will use.
        name: Names the model in the memory.
    """
    if accelerator == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", "the GPU computes bf16"
        return "16-mixed", "the GPU computes fp16 but not bf16"
    if accelerator != "cpu":
        return "32-true", f"no faster precision is known for {accelerator}"
    parts = (
        *(processor(), torch.get_num_threads(), torch.__version__),
        *(name, image_size, batch_size, channels_last),
    )
    key = "|".join(map(str, parts))
    file = cache_dir() / "precision.json"
    remembered = _read(file)
    if key not in remembered:
        remembered = _read(file) | {key: measure(net, image_size, max(2, min(batch_size, 16)), channels_last)}
        with suppress(OSError):  # a cache that cannot be written: measured again next time
            write_text(file, json.dumps(remembered, indent=1))
    speeds = remembered[key]
    best = max(speeds, key=lambda precision: speeds[precision])
    figures = ", ".join(f"{precision} {speed:.0f}" for precision, speed in speeds.items())
    return best, f"training images per second measured here: {figures}"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the context in which Lightning runs a network in `precision`."""
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


def find_accelerator(asked: str) -> str:
    """Return `cuda`, `mps` or `cpu` for `auto`, `gpu` or one of these.

    Raises:
        UserError: No such device is here.
    """
    here = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if asked == "auto":
        return here[0]
    if asked == "gpu" and len(here) > 1:
        return here[0]
    if asked in here:
        return asked
    raise UserError(f"trainer.accelerator={asked}: there is none here that torch can use; take trainer=auto or cpu")


def measure(net: Classifier, image_size: int, batch_size: int, channels_last: bool) -> dict[Precision, float]:
    """Return images per second of a training step in fp32 and in bf16, alternating, the best of a few rounds."""
    fastest: dict[Precision, float] = {"32-true": 0.0, "bf16-mixed": 0.0}
    with torch.random.fork_rng(devices=[]):
        model = copy.deepcopy(net).train()
        model.set_trainable(model.group_names)
        images = torch.randint(0, 256, (batch_size, 3, image_size, image_size), dtype=torch.uint8)
        if channels_last:
            model, images = (
                model.to(memory_format=torch.channels_last),
                images.contiguous(memory_format=torch.channels_last),
            )
        labels = torch.zeros(batch_size, dtype=torch.long)
        started = time.perf_counter()
        for round_ in range(ROUNDS):
            for precision in fastest:
                begin = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                    loss = F.cross_entropy(model(images).float(), labels)
                loss.backward()
                speed = batch_size / (time.perf_counter() - begin)
                if round_ > 0 or time.perf_counter() - started > BUDGET:  # the first round warms up
                    fastest[precision] = max(fastest[precision], speed)
            if time.perf_counter() - started > BUDGET and min(fastest.values()) > 0:
                break
    return {precision: round(speed, 1) for precision, speed in fastest.items()}


def processor() -> str:
    """Return the processor's model name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(file: Path) -> dict[str, dict[Precision, float]]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
