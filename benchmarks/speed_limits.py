"""What the machine can do at most: the network alone on images that are in memory, and decoding alone.

In images per second, medians over rounds in which the kinds alternate: one forward pass and one training step
(forward, backward, optimiser) in fp32 and in bf16, channels last, fused SGD; and decoding by Pillow, on one core
and on all, at full size and at the JPEG scale that is still at least twice as large as what evaluation resizes to.

    python benchmarks/speed_limits.py --arch resnet18 --image-size 224 --root DATA --json limits.json
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim import SGD
from torchvision import models

ROUNDS = 3
SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}  # those of ImageFolder


def forward(arch: str, x_BCHW: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """Return one forward pass in inference mode, all in `dtype`."""
    model = models.get_model(arch, weights=None).to(x_BCHW.device, dtype, memory_format=torch.channels_last).eval()
    x_BCHW = x_BCHW.to(dtype)

    def step() -> None:
        with torch.inference_mode():
            model(x_BCHW)

    return step


def training(arch: str, x_BCHW: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """Return one training step: fp32 weights, arithmetic in `dtype` (autocast)."""
    model = models.get_model(arch, weights=None).to(x_BCHW.device, memory_format=torch.channels_last).train()
    y_B = torch.zeros(len(x_BCHW), dtype=torch.long, device=x_BCHW.device)
    optimizer = SGD(model.parameters(), lr=1e-4, momentum=0.9, fused=True)

    def step() -> None:
        with torch.autocast(x_BCHW.device.type, dtype, enabled=dtype != torch.float32):
            loss = nn.functional.cross_entropy(model(x_BCHW), y_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def seconds_per_step(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Return the mean time of a step over some of them."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / steps


def model_limits(arch: str, image_size: int, batch_size: int, budget: float) -> dict[str, float]:
    """Return images per second of each kind; about `budget` seconds of measuring per kind and round."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32, which is what tlab uses there
    x_BCHW = torch.randn(batch_size, 3, image_size, image_size, device=device)
    x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
    kinds = {
        "forward_fp32": forward(arch, x_BCHW, torch.float32),
        "forward_bf16": forward(arch, x_BCHW, torch.bfloat16),
        "train_fp32": training(arch, x_BCHW, torch.float32),
        "train_bf16": training(arch, x_BCHW, torch.bfloat16),
    }
    steps = {}
    for name, step in kinds.items():
        seconds_per_step(step, 2, device)  # the first steps choose algorithms and take memory
        steps[name] = max(1, round(budget / seconds_per_step(step, 1, device)))
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(ROUNDS):
        for name, step in kinds.items():
            times[name].append(seconds_per_step(step, steps[name], device))
    return {name: batch_size / statistics.median(values) for name, values in times.items()}


def image_files(root: Path) -> list[Path]:
    """Return the images of root/train and root/val that ImageFolder finds."""
    files = (path for split in ("train", "val") for path in sorted((root / split).rglob("*")))
    return [path for path in files if path.suffix.lower() in SUFFIXES]


def decode(path: Path, side: int | None) -> None:
    """Decode to RGB; with `side`, at the smallest JPEG scale whose shorter side still has so many pixels."""
    with Image.open(path) as image:
        if side is not None:
            image.draft("RGB", (side, side))
        image.convert("RGB")


def decode_limits(files: list[Path], image_size: int, budget: float) -> dict[str, float]:
    """Return images per second of decoding, from files that the operating system holds in memory."""
    side = 2 * round(image_size * 256 / 224)
    cores = os.cpu_count() or 1
    times: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, limit in (("decode", None), ("decode_scaled", side)):
            for suffix, threads in (("_one_core", 1), ("", cores)):
                with ThreadPoolExecutor(threads) as pool:
                    start, done = time.perf_counter(), 0
                    while not done or time.perf_counter() - start < budget:
                        list(pool.map(lambda path: decode(path, limit), files))  # noqa: B023 - used up at once
                        done += len(files)
                    times.setdefault(name + suffix, []).append(done / (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds train/ and val/")
    parser.add_argument("--arch", default="resnet18", help="torchvision model, %(default)s")
    parser.add_argument("--image-size", type=int, default=224, help="pixels, %(default)s")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--budget", type=float, default=1.0, help="seconds per kind and round, %(default)s")
    parser.add_argument("--json", type=Path, required=True, help="where to write the figures")
    args = parser.parse_args()
    files = image_files(args.root)
    figures = model_limits(args.arch, args.image_size, args.batch_size, args.budget)
    figures |= decode_limits(files, args.image_size, args.budget)
    figures["images"] = len(files)
    args.json.write_text(json.dumps(figures) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
