"""fastai's `vision_learner(...).fine_tune(...)` with its defaults, from the weights and on the images tlab gets.

It needs fastai, which is not among tlab's dependencies: `pip install fastai` in an environment of its own; it
imports nothing of tlab. fastai's defaults are kept: one frozen epoch, then all layers under one-cycle Adam at
base_lr 2e-3 with discriminative rates, head of average and maximum pooling with dropout, BatchNorm of the
frozen backbone in training mode. Given from outside: image size, batch size (fastai's is 64) and total epochs.

    python benchmarks/fastai_fine_tune.py --root DATA --weights resnet18.pth --image-size 128 --out fastai.csv
"""

import argparse
import csv
import statistics
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from fastai.vision.all import (
    ImageDataLoaders,
    Learner,
    Resize,
    accuracy,
    aug_transforms,
    model_meta,
    resnet18,
    set_seed,
    vision_learner,
)
from torch import nn


@dataclass(frozen=True)
class Result:
    """What one seed gave: accuracy in 0..1 on val/ after the last epoch and in the best one, wall clock."""

    seed: int
    augmented: bool
    epochs: int
    last_accuracy: float
    best_accuracy: float
    seconds: float


def learner(root: Path, weights: Path, image_size: int, batch_size: int, augmented: bool) -> Learner:
    """What a fastai user would write, but with the pretrained weights of a file.

    The architecture is a function of ours, entered in fastai's own table as a ResNet-18. So all that
    `pretrained=True` implies stays in force: where to cut, the three parameter groups, the frozen body, and the
    normalisation with ImageNet's mean and deviation, which the weights were trained with.
    """
    dls = ImageDataLoaders.from_folder(
        root,
        train="train",
        valid="val",
        item_tfms=Resize(image_size),
        batch_tfms=aug_transforms() if augmented else None,
        bs=batch_size,
        num_workers=0,
    )

    def pretrained_resnet18(weights: object = None) -> nn.Module:  # fastai passes "DEFAULT": the file instead
        model = resnet18(num_classes=state["fc.weight"].shape[0])
        model.load_state_dict(state)
        return model

    state = torch.load(weights, map_location="cpu", weights_only=True)
    model_meta[pretrained_resnet18] = model_meta[resnet18]
    return vision_learner(dls, pretrained_resnet18, metrics=accuracy)


def run(args: argparse.Namespace, seed: int, augmented: bool) -> Result:
    """One frozen epoch (fastai's default) and `epochs - 1` of all layers."""
    set_seed(seed, reproducible=True)
    start = time.perf_counter()
    learn = learner(args.root, args.weights, args.image_size, args.batch_size, augmented)
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(args.epochs - 1)
    accuracies = [row[-1] for row in learn.recorder.values]  # the unfrozen epochs
    result = Result(seed, augmented, args.epochs, accuracies[-1], max(accuracies), time.perf_counter() - start)
    print(", ".join(f"{name} {value}" for name, value in asdict(result).items()), flush=True)
    return result


def row(results: list[Result], augmented: bool) -> str:
    """A line of the table: mean and sample standard deviation, in percent, over the seeds."""
    cells = ["aug_transforms()" if augmented else "none"]
    for name in ("last_accuracy", "best_accuracy"):
        values = [100 * getattr(result, name) for result in results if result.augmented == augmented]
        deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.1f}{deviation}")
    return f"| {' | '.join(cells)} |"


def write(path: Path, results: list[Result]) -> None:
    """One row per seed and augmentation; accuracies in 0..1."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Result)])
        writer.writeheader()
        writer.writerows(asdict(result) for result in results)


def main() -> None:
    """Run every seed with and without fastai's batch augmentation, write the figures, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds train/ and val/")
    parser.add_argument("--weights", type=Path, required=True, help="state dict of a torchvision ResNet-18")
    parser.add_argument("--image-size", type=int, default=128, help="%(default)s pixels")
    parser.add_argument("--batch-size", type=int, default=32, help="%(default)s; fastai's default is 64")
    parser.add_argument("--epochs", type=int, default=15, help="%(default)s in all, the first of them frozen")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--augment", choices=["no", "yes", "both"], default="both", help="aug_transforms()")
    parser.add_argument("--out", type=Path, required=True, help="CSV file, one row per seed and augmentation")
    args = parser.parse_args()
    results = []
    for augmented in {"no": [False], "yes": [True], "both": [False, True]}[args.augment]:
        for seed in args.seeds:
            results.append(run(args, seed, augmented))
            write(args.out, results)  # after every run: what is done survives a stop
    print("| augmentation | val acc, last epoch (%) | val acc, best epoch (%) |", "|---|---|---|", sep="\n")
    for augmented in sorted({result.augmented for result in results}):
        print(row(results, augmented))


if __name__ == "__main__":
    main()
