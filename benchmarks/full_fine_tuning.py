"""What full fine-tuning reaches of the speed of the network alone on a batch in memory, in fp32, in turns.

Each round runs `tlab.train finetune=full` as a command between two measurements of the network alone
(`speed_limits.training`, in a process of its own); its ratio is that of the images per second to the mean of
the two. `--without-bf16` has PyTorch and oneDNN do without AVX-512, as on a machine that has only AVX2.

    python benchmarks/full_fine_tuning.py --root DATA --image-size 224 --without-bf16
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from speed_limits import seconds_per_step, training
from tlab.config.overrides import as_override

ONLY_AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
BATCH_SIZE = 32


def network_alone(arch: str, image_size: int) -> float:
    """Return images per second of training steps on one batch, median of five measurements."""
    device = torch.device("cpu")
    x_BCHW = torch.rand(BATCH_SIZE, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
    step = training(arch, x_BCHW, torch.float32)
    seconds_per_step(step, 2, device)  # the first steps choose algorithms and take memory
    return BATCH_SIZE / statistics.median(seconds_per_step(step, 3, device) for _ in range(5))


def tlab_epochs(root: Path, arch: str, image_size: int, epochs: int, environment: dict[str, str]) -> list[float]:
    """Return images per second in each epoch of a run with `aug=light`."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            as_override("data.root", root),
            f"backbone={arch}",
            *("backbone.weights=null", "finetune=full", "aug=light", "trainer=cpu", "trainer.precision=32-true"),
            *(f"data.image_size={image_size}", f"data.batch_size={BATCH_SIZE}", f"trainer.max_epochs={epochs}"),
            *("logger=none", f"run_dir={folder}/run"),
        ]
        command = [sys.executable, "-m", "tlab.train", *overrides]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        with (Path(folder) / "run" / "history.csv").open(encoding="utf-8", newline="") as file:
            return [float(row["images_per_second"]) for row in csv.DictReader(file)]


def _measured(command: list[str], environment: dict[str, str]) -> float:
    return float(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder of images")
    parser.add_argument("--arch", default="resnet18", help="torchvision model, %(default)s")
    parser.add_argument("--image-size", type=int, default=224, help="pixels, %(default)s")
    parser.add_argument("--epochs", type=int, default=2, help="of each run, %(default)s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-bf16", action="store_true", help="do without AVX-512")
    parser.add_argument("--alone", action="store_true", help="print the network's images per second alone, and end")
    args = parser.parse_args()
    if args.alone:
        print(network_alone(args.arch, args.image_size))
        return
    if args.root is None:
        parser.error("--root is missing")
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, **(ONLY_AVX2 if args.without_bf16 else {}), "TLAB_CACHE": cache}
        alone = [sys.executable, __file__, "--alone", "--arch", args.arch, "--image-size", str(args.image_size)]
        before, ratios = _measured(alone, environment), []
        for number in range(args.rounds):
            epochs = tlab_epochs(args.root, args.arch, args.image_size, args.epochs, environment)
            after = _measured(alone, environment)
            ratios.append(statistics.mean(epochs) / statistics.mean((before, after)))
            told = ", ".join(f"{value:.1f}" for value in epochs)
            print(f"round {number + 1}: {told}; the network alone: {before:.1f}, {after:.1f} images/s", flush=True)
            before = after
    print(f"median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
