"""A sweep of heads on stored features against one run: seconds, and what part of them the checkpoints take.

A round has one run, then a sweep of each number of runs, which differ in the rate alone (in the next round in the
reverse order): whole commands in fresh processes, start-up and comparison included. `cold` begins with an empty
cache of features, so the backbone runs once in each command; `warm` finds them there. With `--no-checkpoints` each
number is measured once more with checkpoints that stay in memory. Ratios are to the one run of the same round;
processor seconds stand beside the wall clock, since they say something on a machine that others use too.

    python benchmarks/heads.py --root DATA --weights resnet18.pth --runs 12 48 --no-checkpoints
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tlab.config.overrides import as_override

# Stands in for the writing of checkpoints: what reads one in the same run gets what would have been written
IN_MEMORY = """
from tlab import train
fit = train.fit
def without_files(*arguments, **options):  # patched late: a sweep forks its workers before it imports torch
    import torch
    from tlab.runs import checkpoints
    kept, read = {}, torch.load
    def keep(checkpoint, path):
        path.touch()
        kept['best'] = checkpoint
    def load(path, *arguments, **options):
        return kept['best'] if str(path).endswith('best.ckpt') else read(path, *arguments, **options)
    checkpoints._write, torch.load = keep, load
    return fit(*arguments, **options)
train.fit = without_files
"""
START = "import sys; from tlab.train import main; sys.argv[0] = 'tlab.train'; main()"


def seconds(command: list[str], cache: Path) -> tuple[float, float]:
    """Run a command; returns its seconds by the wall clock, and those of processors in it and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    environment = {**os.environ, "TLAB_CACHE": str(cache)}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def command(args: argparse.Namespace, runs: int, directory: Path, checkpoints: bool) -> list[str]:
    """Return the command of one run, or of a sweep of several."""
    setting = [
        *(as_override("data.root", args.root), f"data.image_size={args.image_size}", "trainer=cpu", "aug=none"),
        *("finetune=head", "backbone=resnet18", as_override("backbone.weights", args.weights)),
        f"trainer.max_epochs={args.epochs}",
    ]
    rates = ",".join(f"{0.3 * 0.9**number:.4g}" for number in range(runs))
    place = [as_override("hydra.run.dir" if runs == 1 else "hydra.sweep.dir", directory)]
    many = [f"optimizer.lr={rates}", *(["-m"] if runs > 1 else [])]
    return [sys.executable, "-c", ("" if checkpoints else IN_MEMORY) + START, *setting, *place, *many]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--weights", required=True, help="a file for resnet18")
    parser.add_argument("--runs", type=int, nargs="+", default=[12, 48])
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-checkpoints", action="store_true")
    args = parser.parse_args()
    kinds = [(runs, True) for runs in (1, *args.runs)]
    kinds += [(runs, False) for runs in args.runs if args.no_checkpoints]
    ratios: dict[tuple[str, int, bool], list[tuple[float, float]]] = {}
    for number in range(args.rounds):
        for state in ("cold", "warm"):
            with tempfile.TemporaryDirectory() as folder:
                found = {}
                for runs, checkpoints in kinds if number % 2 == 0 else kinds[::-1]:
                    work = Path(folder) / f"{runs}{checkpoints}"
                    cache = work / "cache" if state == "cold" else Path(folder) / "cache"
                    if state == "warm" and not cache.exists():
                        seconds(command(args, 1, Path(folder) / "first", True), cache)
                    found[runs, checkpoints] = seconds(command(args, runs, work, checkpoints), cache)
                    wall, processors = found[runs, checkpoints]
                    what = f"{runs} run{'s' * (runs > 1)}{'' if checkpoints else ' without checkpoints'}"
                    load = os.getloadavg()[0]
                    print(
                        f"{state} {what}: {wall:.1f} s, {processors:.1f} s of processors, load {load:.1f}",
                        flush=True,
                    )
            for kind, (wall, processors) in found.items():
                one = found[1, True]
                ratios.setdefault((state, *kind), []).append((wall / one[0], processors / one[1]))
    print("median ratio to one run: wall clock, processors")
    for (state, runs, checkpoints), several in ratios.items():
        wall, processors = (statistics.median(column) for column in zip(*several, strict=True))
        without = "" if checkpoints else " without checkpoints"
        print(f"{state} {runs} runs{without}: {wall:.2f}, {processors:.2f}")


if __name__ == "__main__":
    main()
