r"""Every recipe of conf/experiment on images, and what tlab's defaults give with the same weights and images.

SETS holds a folder `<set>/{train,val,test}/<class>/` for hymenoptera and cifar10; KAGGLE is a competition in
Kaggle's layout. Recipes that ask for weights of ImageNet get those of EfficientNet-Lite0, which need no network, at
the size that they were trained at (CIFAR-10 at 96 px); those that do not are run with a ResNet-18 too, trained at
64 px, at 128 px. Accuracies are those of the epoch that validates best. Stopped, it goes on with the same command.

    python benchmarks/recipes.py --sets SETS --kaggle KAGGLE --resnet18 resnet18.pth --output DIR
    python benchmarks/recipes.py --sets SETS --resnet18 resnet18.pth --output DIR --only demo --seeds 0 1 2 3 4
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from intervals import of_mean
from tlab.config.overrides import as_override
from tlab_runs import Result, carry_out

LITE0 = ("backbone=efficientnet_lite0", "backbone.weights=packaged")


@dataclass(frozen=True)
class Case:
    """A recipe, or the defaults, on one set of images with one set of weights.

    Attributes:
        name: Of its row and of its folder.
        overrides: The command line, without seed and places.
        against: Name of the case that it is compared with.
    """

    name: str
    overrides: tuple[str, ...]
    against: str | None = None


def cases(sets: Path, kaggle: Path | None, resnet18: Path) -> list[Case]:
    """All of them; `cats_dogs` says what the defaults say, so it stands for them where it is compared with."""
    photos = as_override("data.root", str(sets / "hymenoptera"))
    photos_lite0 = (photos, *LITE0)
    photos_resnet18 = (photos, as_override("backbone.weights", str(resnet18)), "data.image_size=128")
    small = (as_override("data.root", str(sets / "cifar10")), *LITE0, "data.image_size=96")
    scratch = ("experiment=demo", "finetune=scratch", "backbone.weights=null")
    found = [
        Case("demo_from_scratch", scratch),
        Case("demo", ("experiment=demo",), against="demo_from_scratch"),
        Case("cats_dogs_lite0", ("experiment=cats_dogs", *photos_lite0)),
        Case("cats_dogs_resnet18", ("experiment=cats_dogs", *photos_resnet18)),
        Case("small_lr_full_lite0", ("experiment=small_lr_full", *photos_lite0), "cats_dogs_lite0"),
        Case("small_lr_full_resnet18", ("experiment=small_lr_full", *photos_resnet18), "cats_dogs_resnet18"),
        Case("vgg16_last_layer_lite0", ("experiment=vgg16_last_layer", *photos_lite0), "cats_dogs_lite0"),
        Case("cifar10_defaults_lite0", small),
        Case("stl10_lite0", ("experiment=stl10_vgg16", "data=folder", *small), "cifar10_defaults_lite0"),
    ]
    if kaggle is not None:
        found.append(Case("kaggle_cifar10", ("experiment=kaggle_cifar10", as_override("data.root", str(kaggle)))))
    return found


def row(name: str, own: dict[int, Result], other: dict[int, Result]) -> str:
    """A line of the table; the difference is paired by the seeds that both sides have."""
    test = [100 * result.test for result in own.values()]
    gains = [own[seed].test - other[seed].test for seed in own if seed in other]
    gain = of_mean(gains).percent() if len(gains) > 1 else "".join(f"{100 * each:+.1f}" for each in gains)
    best = 100 * mean(result.best for result in own.values())
    seconds = mean(result.seconds for result in own.values())
    seeds = ", ".join(f"{value:.1f}" for value in test)
    return f"| {name} | {best:.1f} | {mean(test):.1f} | {seeds} | {gain} | {seconds:.0f} |"


def main() -> None:
    """Carry out what is not there yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=Path, required=True, help="folder that holds hymenoptera and cifar10")
    parser.add_argument("--kaggle", type=Path, help="a competition's folder; without it kaggle_cifar10 is left out")
    parser.add_argument("--resnet18", type=Path, required=True, help="weights of a ResNet-18")
    parser.add_argument("--output", type=Path, required=True, help="folder for the run directories")
    parser.add_argument("--only", nargs="+", default=[], metavar="CASE", help="all whose names begin so")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    chosen = cases(args.sets, args.kaggle, args.resnet18)
    done: dict[str, dict[int, Result]] = {}
    for case in [each for each in chosen if each.name.startswith(tuple(args.only) or "")]:
        for seed in args.seeds:
            directory = args.output / case.name / f"seed={seed}"
            result = carry_out(directory, [*case.overrides, f"seed={seed}"])
            done.setdefault(case.name, {})[seed] = result
            print(f"{case.name}, seed {seed}: val {result.best:.4f}, test {result.test:.4f}", flush=True)
    print("| | val (%) | test (%) | by seed | minus what it is compared with | s |", "|---" * 6 + "|", sep="\n")
    against = {case.name: case.against or "" for case in chosen}
    for name, own in done.items():
        print(row(name, own, done.get(against[name], {})))


if __name__ == "__main__":
    main()
