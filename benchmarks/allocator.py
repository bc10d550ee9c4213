"""A training step with and without `tlab.core.hardware.keep_freed_memory`, in fresh processes, alternating.

python benchmarks/allocator.py --arch resnet18 --image-size 224
"""

import argparse
import statistics
import subprocess
import sys
import time

import torch

from speed_limits import training
from tlab.core.hardware import keep_freed_memory, limit_spinning


def images_per_second(arch: str, image_size: int, batch_size: int, steps: int) -> float:
    """Return the speed of training steps in bf16 on a batch in memory; the first two steps do not count."""
    x_BCHW = torch.randn(batch_size, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
    step = training(arch, x_BCHW, torch.bfloat16)
    for _ in range(2):
        step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return batch_size * steps / (time.perf_counter() - start)


def main() -> None:
    """Measure in processes of their own, and print both medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet18", help="torchvision model, %(default)s")
    parser.add_argument("--image-size", type=int, default=224, help="pixels, %(default)s")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--once", choices=("stock", "kept"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.once:
        if args.once == "kept":
            keep_freed_memory()
        print(images_per_second(args.arch, args.image_size, args.batch_size, args.steps))
        return
    limit_spinning()  # in the processes that follow
    speeds: dict[str, list[float]] = {"stock": [], "kept": []}
    for _ in range(args.rounds):
        for kind, values in speeds.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--once", kind]
            values.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    ratios = [kept / stock for stock, kept in zip(*speeds.values(), strict=True)]
    for kind, values in speeds.items():
        print(f"{kind:5}  {statistics.median(values):6.1f} images/s")
    print(f"ratio  {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
