"""Every fine-tuning plan on one data set, some seeds each, and what lp_ft gives over full, seed by seed.

Kumar et al. 2022 ("Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution") found a
linear probe followed by fine-tuning better than fine-tuning everything at once.

Each run has its own directory below `--output`: a stopped comparison goes on when the same command is given again.

    python benchmarks/compare_plans.py --root DATA --weights resnet18.pth --image-size 128 --output plans
"""

import argparse
import statistics
from pathlib import Path

from intervals import of_mean, spread
from tlab_runs import Result, run

PLANS = ["scratch", "head", "last", "lp_ft", "gradual", "full"]

Results = dict[tuple[str, int], Result]  # plan, seed


def table(results: Results) -> str:
    """One row per plan: validation accuracy, mean and sample standard deviation over the seeds."""
    rows = ["| finetune | last epoch (%) | best epoch (%) | seconds |", "|---|---|---|---|"]
    for plan in dict.fromkeys(plan for plan, _ in results):
        own = [result for (name, _), result in results.items() if name == plan]
        last, best = spread([result.last for result in own]), spread([result.best for result in own])
        rows.append(f"| `{plan}` | {last} | {best} | {statistics.mean(result.seconds for result in own):.0f} |")
    return "\n".join(rows)


def each(results: Results) -> str:
    """One row per run."""
    rows = [
        "| finetune | seed | last epoch (%) | best epoch (%) | seconds |",
        "|---|---|---|---|---|",
    ]
    for (plan, seed), result in results.items():
        rows.append(
            f"| `{plan}` | {seed} | {100 * result.last:.1f} | {100 * result.best:.1f} | {result.seconds:.0f} |"
        )
    return "\n".join(rows)


def paired(results: Results, plan: str, other: str) -> str:
    """The differences of the last epoch's accuracy per seed, and the 95 % t interval of their mean."""
    seeds = [seed for name, seed in results if name == plan and (other, seed) in results]
    differences = [results[plan, seed].last - results[other, seed].last for seed in seeds]
    listed = ", ".join(f"{100 * difference:+.1f}" for difference in differences)
    sentence = f"{plan} - {other}, last epoch, points, seeds {', '.join(map(str, seeds))}: {listed}"
    return f"{sentence}; mean {of_mean(differences).percent()}" if len(seeds) > 1 else sentence


def main() -> None:
    """Carry out what is not there yet, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds train/ and val/")
    parser.add_argument("--weights", required=True, help="backbone.weights: a file, or a name")
    parser.add_argument("--output", type=Path, required=True, help="folder for the run directories")
    parser.add_argument("--image-size", type=int, default=128, help="%(default)s pixels")
    parser.add_argument("--batch-size", type=int, default=32, help="%(default)s")
    parser.add_argument("--epochs", type=int, default=15, help="%(default)s in all, every plan")
    parser.add_argument("--plans", nargs="+", default=PLANS, help="choices of finetune (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more overrides, for every run")
    args = parser.parse_args()
    results: Results = {}
    for seed in args.seeds:  # seed by seed: a table of every plan is there early
        for plan in args.plans:
            overrides = [
                f"finetune={plan}",
                f"seed={seed}",
                f"data.image_size={args.image_size}",
                f"data.batch_size={args.batch_size}",
                f"trainer.max_epochs={args.epochs}",
                *args.set,
            ]
            directory = args.output / plan / f"seed={seed}"
            result = results[plan, seed] = run(directory, args.root, args.weights, overrides)
            print(f"{plan} seed {seed}: last {result.last:.4f} best {result.best:.4f}", flush=True)
    print(table(results), each(results), sep="\n\n", end="\n\n")
    if {"lp_ft", "full"} <= set(args.plans):
        print(paired(results, "lp_ft", "full"))


if __name__ == "__main__":
    main()
