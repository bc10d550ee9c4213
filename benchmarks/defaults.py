r"""tlab with its defaults against fastai's `fine_tune` with its own, on several sets; and against its head alone.

Nothing is chosen but the weights, the image size, the batch size and the number of epochs. SETS holds a folder
`<set>/{train,val,test}/<class>/` for each set; fastai's accuracies are measured beforehand, in a table with the
columns `set`, `px`, `seed` and `test_acc`, which also says the image sizes. tlab's are those of the epoch that
validates best, fastai's of the last one. Differences are paired by set and seed; their interval is a bootstrap over
sets and seeds. Stopped, it goes on with the same command.

    python benchmarks/defaults.py --sets SETS --fastai-csv fastai.csv --output DIR --weights resnet18.pth
    python benchmarks/defaults.py --sets SETS --fastai-csv fastai.csv --output DIR --weights packaged \
        --backbone efficientnet_lite0
"""

import argparse
import csv
from pathlib import Path
from statistics import mean

from intervals import Interval, of_hierarchy
from tlab_runs import run

Key = tuple[str, int]  # set and seed


def read_fastai(path: Path) -> tuple[dict[Key, float], dict[str, int]]:
    """Test accuracies in 0..1 by set and seed, and the image size of each set in pixels."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    accuracies = {(row["set"], int(row["seed"])): float(row["test_acc"]) for row in rows}
    return accuracies, {row["set"]: int(row["px"]) for row in rows}


def differences(ours: dict[Key, float], others: dict[Key, float]) -> list[list[float]]:
    """Ours minus the others', a list of seeds per set; where a seed is missing there, their mean stands for it."""
    found: dict[str, list[float]] = {}
    for (name, seed), accuracy in ours.items():
        other = others.get((name, seed), mean(value for (own, _), value in others.items() if own == name))
        found.setdefault(name, []).append(accuracy - other)
    return list(found.values())


def row(name: str, columns: list[list[float]], difference: Interval | None = None) -> str:
    """A line of the table; `difference` is tlab's mean minus this side's."""
    means = [100 * mean(values) for values in columns]
    cells = [*(f"{value:.1f}" for value in means), f"{mean(means):.1f}", difference.percent() if difference else ""]
    return f"| {name} | {' | '.join(cells)} |"


def by_set(accuracies: dict[Key, float], sets: list[str]) -> list[list[float]]:
    """The seeds of each set."""
    return [[value for (own, _), value in accuracies.items() if own == name] for name in sets]


def main() -> None:
    """Carry out what is not there yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=Path, required=True, help="folder that holds a folder for each set")
    parser.add_argument("--fastai-csv", type=Path, required=True, help="fastai's accuracies")
    parser.add_argument("--backbone", default="resnet18", help="%(default)s")
    parser.add_argument("--weights", required=True, help="backbone.weights: a file, or a name")
    parser.add_argument("--output", type=Path, required=True, help="folder for the run directories")
    parser.add_argument("--batch-size", type=int, default=32, help="%(default)s")
    parser.add_argument(
        "--epochs", type=int, default=8, help="%(default)s, of which 3 are the head's where it steps"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    args = parser.parse_args()
    fastai, sizes = read_fastai(args.fastai_csv)
    ours: dict[Key, float] = {}
    head: dict[Key, float] = {}
    for seed in args.seeds:
        for name, size in sizes.items():
            overrides = [
                f"backbone={args.backbone}",
                f"seed={seed}",
                f"data.image_size={size}",
                f"data.batch_size={args.batch_size}",
                f"trainer.max_epochs={args.epochs}",
            ]
            for finetune, accuracies in (("lp_ft", ours), ("head", head)):
                directory = args.output / args.backbone / name / f"{finetune}_seed={seed}"
                done = run(directory, args.sets / name, args.weights, [*overrides, f"finetune={finetune}"])
                accuracies[name, seed] = done.test
            print(f"{name}, seed {seed}: {ours[name, seed]:.4f}, head alone {head[name, seed]:.4f}", flush=True)
    sets = [*sizes]
    print(
        f"| | {' | '.join(sets)} | mean (%) | tlab minus this (points, 95 %) |",
        f"|---{'|---' * (len(sets) + 2)}|",
        sep="\n",
    )
    print(row("tlab", by_set(ours, sets)))
    print(row("its head alone", by_set(head, sets), of_hierarchy(differences(ours, head))))
    print(row("fastai fine_tune", by_set(fastai, sets), of_hierarchy(differences(ours, fastai))))


if __name__ == "__main__":
    main()
