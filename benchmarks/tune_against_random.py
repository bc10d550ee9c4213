r"""`tlab.tune` with its defaults (TPE, median pruning) against random search on the same number of trials.

Only the head is trained, on features that are computed once and kept, so that a trial takes seconds. Both sides
search the same space on the same images, one worker, one study per seed of the sampler. It prints the best value of
each study, the share of trials that were pruned, the epochs that were trained, and the seconds; stopped, it goes on
with the same command.

    python benchmarks/tune_against_random.py --output outputs/tune_benchmark data.root=DATA data.image_size=64 \
        backbone.weights=resnet18.pth
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from intervals import of_mean
from tlab.runs.directory import RunDirectory
from tlab.search.study import open_storage, storage_address

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
    folder = (directory / name).absolute()
    own = (f"study={name}", f"dir={folder}", f"sampler.seed={seed}", f"budget.trials={trials}", *SIDES[side])
    run = ("finetune=head", f"trainer.max_epochs={epochs}", "aug=none", *UNDRAWN)
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "tlab.tune", *own, *run, *SPACE, *overrides], check=True)
    seconds = time.monotonic() - start
    study = optuna.load_study(study_name=name, storage=open_storage(storage_address(None, folder)))
    states = [trial.state.name for trial in study.trials]
    runs = [RunDirectory(file.parent) for file in folder.glob("trial=*/seed=*/run.json")]
    return Outcome(
        best=study.best_value,
        pruned=states.count("PRUNED") / len(states),
        failed=states.count("FAIL") / len(states),
        epochs=sum(len(run.history()) for run in runs),
        seconds=seconds,
    )


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
    columns = ("", "best, per seed (%)", "mean (%)", "pruned", "failed", "epochs", "seconds")
    print(_row(columns), _row(["---"] * len(columns)), sep="\n")
    for side, outcomes in found.items():
        best = [100 * outcome.best for outcome in outcomes]
        pruned, failed, epochs, seconds = (
            statistics.fmean(getattr(outcome, name) for outcome in outcomes)
            for name in ("pruned", "failed", "epochs", "seconds")
        )
        shown = (", ".join(f"{value:.1f}" for value in best), f"{statistics.fmean(best):.1f}")
        print(_row((side, *shown, f"{pruned:.0%}", f"{failed:.0%}", f"{epochs:.0f}", f"{seconds:.0f}")))
    if len(args.seeds) > 1:
        differences = [tpe.best - random.best for tpe, random in zip(*found.values(), strict=True)]
        print(f"\ndifference: {of_mean(differences).percent()} points, 95 %, seed by seed")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
