r"""Trained on one set, tested on another one that has the same classes: what fine-tuning forgets, against the head.

Each plan is a run with tlab's defaults on either set of a pair, whose `data.tests` is the test part of the other.
Differences are to the head alone, paired by seed. Stopped, it goes on with the same command; with the same OUTPUT
it takes the runs that `defaults.py` has made, and measures them on the other set besides.

    python benchmarks/shift.py --sets SETS --output DIR --weights packaged --backbone efficientnet_lite0
"""

import argparse
from pathlib import Path
from statistics import mean

from tlab.config.overrides import as_override
from tlab.runs.directory import RunDirectory
from tlab_runs import run

PLANS = {  # name of the run's directory -> overrides; the first is what the others are compared with
    "head": ["finetune=head"],
    "lp_ft": ["finetune=lp_ft"],
    "lp_ft_wise": ["finetune=lp_ft", "finetune.soup=wise"],
    "full": ["finetune=full"],
}


def main() -> None:
    """Carry out what is not there yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=Path, required=True, help="folder that holds a folder for each set")
    parser.add_argument("--pair", nargs=2, default=["pacs_photo", "pacs_sketch"], help="%(default)s")
    parser.add_argument("--backbone", default="resnet18", help="%(default)s")
    parser.add_argument("--weights", required=True, help="backbone.weights: a file, or a name")
    parser.add_argument("--output", type=Path, required=True, help="folder for the run directories")
    parser.add_argument("--image-size", type=int, default=96, help="%(default)s pixels")
    parser.add_argument("--batch-size", type=int, default=32, help="%(default)s")
    parser.add_argument("--epochs", type=int, default=8, help="%(default)s")
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=[*PLANS], help="%(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="%(default)s")
    args = parser.parse_args()
    own: dict[tuple[str, str], list[float]] = {}
    shifted: dict[tuple[str, str], list[float]] = {}
    directions = (tuple(args.pair), tuple(args.pair[::-1]))
    for seed in args.seeds:
        for plan in args.plans:
            for name, other in directions:
                directory = args.output / args.backbone / name / f"{plan}_seed={seed}"
                overrides = [
                    f"backbone={args.backbone}",
                    f"seed={seed}",
                    f"data.image_size={args.image_size}",
                    f"data.batch_size={args.batch_size}",
                    f"trainer.max_epochs={args.epochs}",
                    as_override("data.tests", {other: str(args.sets / other)}),
                ]
                run(directory, args.sets / name, args.weights, [*overrides, *PLANS[plan]])
                metrics = RunDirectory(directory).metrics()
                here, there = 100 * metrics["test/acc"], 100 * metrics[f"test/{other}/acc"]
                own.setdefault((plan, name), []).append(here)
                shifted.setdefault((plan, name), []).append(there)
                print(f"{name}, {plan}, seed {seed}: {here:.1f}, on {other} {there:.1f}", flush=True)
    cells = [f"{name} on itself | on {other} | minus {args.plans[0]}, by seed" for name, other in directions]
    print(f"| | {' | '.join(cells)} |", f"|---{'|---' * 3 * len(cells)}|", sep="\n")
    for plan in args.plans:
        cells = []
        for name, _ in directions:
            differences = [a - b for a, b in zip(shifted[plan, name], shifted[args.plans[0], name], strict=True)]
            told = f"{mean(differences):+.1f} ({', '.join(f'{value:+.1f}' for value in differences)})"
            cells.append(f"{mean(own[plan, name]):.1f} | {mean(shifted[plan, name]):.1f} | {told}")
        print(f"| {plan} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
