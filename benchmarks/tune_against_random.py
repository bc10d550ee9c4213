r"""`tlab.tune` with its defaults (TPE, median pruning) against random search on the same number of trials.

Only the head is trained, on features that are computed once and kept, so that a trial takes seconds. Both sides search
the same space on the same images, one worker, one study per seed of the sampler. It prints the best value of each
study, the share of trials that were pruned, the epochs that were trained, and the seconds; stopped, it goes on with
the same command.

    python benchmarks/tune_against_random.py --output outputs/tune_benchmark data.root=DATA backbone.weights=resnet18.pth \
        data.image_size=64
"""

import argparse
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from intervals import of_mean
from tlab.runs.directory import RunDirectory
from tlab.search.storage import open_storage, storage_address

SIDES = {"tpe, median": ("sampler=tpe", "pruner=median"), "random": ("sampler=random", "pruner=none")}
SPACE = (
    "optimizer.lr=tag(log, interval(1e-4, 10))",
    "optimizer.weight_decay=tag(log, interval(1e-6, 1))",
    "optimizer.momentum=interval(0.0, 0.99)",
    "loss.label_smoothing=interval(0.0, 0.5)",
    "head.dropout=interval(0.0, 0.9)",
    "data.batch_size=16,64,256",
    "scheduler=none,cosine,step",
)
UNDRAWN = ("logger=none", "dashboards.preview_images=0", "dashboards.top_losses=0")


@dataclass(frozen=True)
class Outcome:
    """What a study came to: best value in 0..1, shares of trials, epochs trained, seconds (of this command)."""

    best: float
    pruned: float
    failed: float
    epochs: int
    seconds: float


def search(directory: Path, side: str, seed: int, trials: int, epochs: int, overrides: list[str]) -> Outcome:
    """Carry out one study, or what is left of it."""
    import optuna

    name = f"{side.split(',')[0]}_{seed}"
    own = (
        f"study={name}",
        f"dir={directory / name}",
        f"sampler.seed={seed}",
        f"budget.trials={trials}",
        *SIDES[side],
    )
    run = ("finetune=head", f"trainer.max_epochs={epochs}", "aug=none", *UNDRAWN)
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "tlab.tune", *own, *run, *SPACE, *overrides], check=True)
    seconds = time.monotonic() - start
    study = optuna.load_study(
        study_name=name, storage=open_storage(storage_address(None, (directory / name).absolute()))
    )
    states = [trial.state.name for trial in study.trials]
    rows = sum(
        len(RunDirectory(file.parent).history()) for file in (directory / name).glob("trial=*/seed=*/run.json")
    )
    shares = (states.count(state) / len(states) for state in ("PRUNED", "FAIL"))
    return Outcome(study.best_value, *shares, rows, seconds)


def main() -> None:
    """Carry out what is not there yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the studies")
    parser.add_argument("--trials", type=int, default=30, help="%(default)s of each study")
    parser.add_argument("--epochs", type=int, default=12, help="%(default)s of a trial that is not pruned")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the sampler")
    parser.add_argument("overrides", nargs="+", help="data and weights, as for tlab.train")
    args = parser.parse_args()
    found: dict[str, list[Outcome]] = {side: [] for side in SIDES}
    for seed in args.seeds:
        for side, outcomes in found.items():
            outcomes.append(search(args.output, side, seed, args.trials, args.epochs, args.overrides))
            print(f"{side}, seed {seed}: {outcomes[-1]}", flush=True)
    print(
        "| | best, per seed (%) | mean (%) | pruned | failed | epochs | seconds |",
        "|---|---|---|---|---|---|---|",
        sep="\n",
    )
    for side, outcomes in found.items():
        best = ", ".join(f"{100 * outcome.best:.1f}" for outcome in outcomes)
        mean = statistics.fmean(outcome.best for outcome in outcomes)
        pruned, failed, epochs, seconds = (
            statistics.fmean(getattr(outcome, name) for outcome in outcomes)
            for name in ("pruned", "failed", "epochs", "seconds")
        )
        print(
            f"| {side} | {best} | {100 * mean:.1f} | {pruned:.0%} | {failed:.0%} | {epochs:.0f} | {seconds:.0f} |"
        )
    if len(args.seeds) > 1:
        tpe, random = found.values()
        differences = [one.best - other.best for one, other in zip(tpe, random, strict=True)]
        print(f"\ndifference: {of_mean(differences).percent()} points, 95 %, seed by seed")


if __name__ == "__main__":
    main()
