r"""tlab with its defaults against fastai's `fine_tune` with its own, and against a logistic regression.

Nothing is chosen but the weights, the image size, the batch size and the number of epochs. The two other sides are
measured beforehand, on the same images, by `fastai_fine_tune.py` and `logistic_regression.py`; of fastai's two
augmentations the one with the higher mean counts. Accuracies are those of the last epoch, so no epoch is chosen.

    python benchmarks/defaults.py --root DATA --weights resnet18.pth --image-size 128 --output defaults \
        --fastai-csv fastai.csv --logistic-csv logistic.csv
"""

import argparse
import csv
from pathlib import Path

from intervals import Interval, of_difference, of_mean, spread
from tlab_runs import run


def read_fastai(path: Path) -> tuple[str, list[float]]:
    """Last-epoch accuracies in 0..1, one per seed, with the augmentation that suits fastai better.

    Which one that is, the seeds tell that were run with both; of the better one all seeds are returned.
    """
    accuracies: dict[str, dict[int, float]] = {}  # augmentation, seed
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            name = {"True": "aug_transforms()", "False": "no batch_tfms"}[row["augmented"]]
            accuracies.setdefault(name, {})[int(row["seed"])] = float(row["last_accuracy"])
    shared = set.intersection(*map(set, accuracies.values()))
    name = max(accuracies, key=lambda name: sum(accuracies[name][seed] for seed in shared))
    return name, [accuracies[name][seed] for seed in sorted(accuracies[name])]


def read_logistic(path: Path) -> dict[str, float]:
    """Accuracy in 0..1 per C."""
    with path.open(newline="") as file:
        return {f"{float(row['c']):.3g}": float(row["accuracy"]) for row in csv.DictReader(file)}


def row(name: str, accuracies: list[float], difference: Interval | None = None) -> str:
    """A line of the table; `difference` is tlab's mean minus this side's."""
    listed = ", ".join(f"{100 * accuracy:.1f}" for accuracy in accuracies)
    return f"| {name} | {listed} | {spread(accuracies)} | {difference.percent() if difference else ''} |"


def main() -> None:
    """Carry out what is not there yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds train/ and val/")
    parser.add_argument("--weights", required=True, help="backbone.weights: a file, or a name")
    parser.add_argument("--output", type=Path, required=True, help="folder for the run directories")
    parser.add_argument("--fastai-csv", type=Path, required=True, help="what fastai_fine_tune.py wrote")
    parser.add_argument("--logistic-csv", type=Path, required=True, help="what logistic_regression.py wrote")
    parser.add_argument("--image-size", type=int, default=128, help="%(default)s pixels")
    parser.add_argument("--batch-size", type=int, default=32, help="%(default)s")
    parser.add_argument("--epochs", type=int, default=15, help="%(default)s in all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="two or more")
    args = parser.parse_args()
    fastai_name, fastai = read_fastai(args.fastai_csv)
    logistic = read_logistic(args.logistic_csv)
    tlab = []
    for seed in args.seeds:
        overrides = [
            "backbone=resnet18",
            f"seed={seed}",
            f"data.image_size={args.image_size}",
            f"data.batch_size={args.batch_size}",
            f"trainer.max_epochs={args.epochs}",
        ]
        tlab.append(run(args.output / f"seed={seed}", args.root, args.weights, overrides).last)
        print(f"seed {seed}: {tlab[-1]:.4f}", flush=True)
    print(
        "| | last epoch, per seed (%) | mean (%) | tlab minus this (points, 95 %) |",
        "|---|---|---|---|",
        sep="\n",
    )
    print(row("tlab", tlab))
    print(row(f"fastai fine_tune, {fastai_name}", fastai, of_difference(tlab, fastai)))
    for c, accuracy in logistic.items():
        print(row(f"logistic regression, C={c}", [accuracy], of_mean([value - accuracy for value in tlab])))


if __name__ == "__main__":
    main()
