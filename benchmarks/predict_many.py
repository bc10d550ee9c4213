"""Peak memory of `tlab.predict` by number of images, and its rows after it was killed.

Trains a small network on drawn images, and predicts folders of hard links to some of them, each with a command of
its own, of which it prints the peak memory. In the largest folder it then kills the command at random moments,
looks whether anything has the name of the output, lets it finish, and compares the rows with those of a whole one.

    python benchmarks/predict_many.py 10000 100000
"""

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

QUICK = (
    *(
        "backbone=resnet18",
        "backbone.weights=null",
        "backbone.upto=layer1",
        "finetune=head",
        "trainer.max_epochs=1",
    ),
    *("trainer=cpu", "trainer.precision=32-true", "logger=none", "data=demo", "data.image_size=32"),
)
PER_FOLDER = 5_000  # hard links to a file; file systems allow 65,000 in all


def tlab(command: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a command of tlab; what it prints goes to standard error."""
    return subprocess.Popen([sys.executable, "-m", f"tlab.{command}", *arguments], stdout=sys.stderr)


def finish(process: subprocess.Popen[bytes]) -> float:
    """Wait for a command, and return its peak memory in MB; macOS counts in bytes."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{process.args} ended with code {process.returncode}")
    return usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def fill(folder: Path, images: Sequence[Path], count: int) -> Path:
    """Fill a folder with so many hard links to images, and return it."""
    for i in range(count):
        target = folder / f"{i // PER_FOLDER:03}" / f"image_{i:07}{images[i % len(images)].suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(images[i % len(images)])
    return folder


def rows(file: Path) -> Iterator[list[str]]:
    """Yield the rows of a table."""
    with file.open(encoding="utf-8", newline="") as lines:
        yield from csv.reader(lines)


def largest_difference(one: Path, other: Path) -> float:
    """Return the largest difference between numbers of two tables; infinity where they differ in anything else."""
    largest = 0.0
    for mine, theirs in zip_longest(rows(one), rows(other), fillvalue=[""]):
        for a, b in zip_longest(mine, theirs, fillvalue=""):
            if a != b:
                try:
                    largest = max(largest, abs(float(a) - float(b)))
                except ValueError:
                    return float("inf")
    return largest


def main() -> None:
    """Measure, kill, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("counts", nargs="*", type=int, default=[10_000, 100_000], help="numbers of images")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        place = Path(name)
        finish(tlab("train", *QUICK, f"data.root={place}/data", f"hydra.run.dir={place}/run"))
        images = sorted((place / "data").rglob("*.jpg"))[:50]
        peaks = {}
        for count in sorted(args.counts):
            folder = fill(place / str(count), images, count)
            command = (f"run={place}/run", f"input={folder}", "accelerator=cpu", "batch_size=32")
            start = time.monotonic()
            peaks[count] = finish(tlab("predict", *command, f"output={place}/{count}.csv"))
            seconds = time.monotonic() - start
            print(f"{count:>9,} images: peak {peaks[count]:.1f} MB, {seconds:.1f} s", flush=True)
        least, most = peaks[min(peaks)], peaks[max(peaks)]
        print(f"peak at {max(peaks):,} against {min(peaks):,}: {most / least - 1:+.2%}", flush=True)
        output = place / "killed.csv"
        for _ in range(args.kills):
            process = tlab("predict", *command, f"output={output}")
            time.sleep(seconds * rng.uniform(0.3, 1) / args.kills + min(5, seconds / 2))
            process.send_signal(signal.SIGKILL)
            process.wait()
            left = sum(sum(1 for _ in rows(part)) - 1 for part in place.glob(".killed.csv.*.part"))
            print(f"killed: {'a table' if output.exists() else 'no table'}, {left:,} rows beside it", flush=True)
        finish(tlab("predict", *command, f"output={output}"))
        difference = largest_difference(place / f"{max(peaks)}.csv", output)
        print(f"continued: rows differ by {difference:g} at most", flush=True)


if __name__ == "__main__":
    main()
