"""How often threads of OpenMP should ask for work before they sleep (`GOMP_SPINCOUNT`), alone and in company.

Two processes for each value, with as many threads each as there are cores, train on a batch in memory.
A round has one value after the other (in the next round in the reverse order): first one process of it for some
seconds while all others sleep, then both. `unset` is what torch does by itself; ratios are to it in the same round.
`tlab.core.hardware.limit_spinning` has the value that tlab takes. Needs a torch that computes with GNU's OpenMP, as
on Linux, and a machine on which nothing else runs.

    python benchmarks/spin.py
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from tlab.core.hardware import cpu_count

VALUES = ("unset", "1000", "3000", "10000", "30000")


def work(args: argparse.Namespace) -> None:
    """Train for so many seconds for each line of standard input, and print images per second."""
    import torch

    from speed_limits import training

    torch.set_num_threads(args.threads)
    shape = (args.batch_size, 3, args.image_size, args.image_size)
    step = training(args.arch, torch.randn(shape).contiguous(memory_format=torch.channels_last), torch.float32)
    for _ in range(2):  # the first steps choose algorithms and take memory
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        start, steps = time.perf_counter(), 0
        while (seconds := time.perf_counter() - start) < float(line):
            step()
            steps += 1
        print(args.batch_size * steps / seconds, flush=True)


class Worker:
    """A process that trains when it is told to.

    Args:
        value: Of GOMP_SPINCOUNT in its environment.
    """

    def __init__(self, value: str) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
        if value != "unset":
            environment["GOMP_SPINCOUNT"] = value
        command = [sys.executable, __file__, *sys.argv[1:], "--worker"]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.read()

    def read(self) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit("a process of the benchmark has ended early; see above")
        return line

    def begin(self, seconds: float) -> None:
        """Let it train for so many seconds, the last step included."""
        assert self.process.stdin is not None
        print(seconds, file=self.process.stdin, flush=True)


def speed(workers: Sequence[Worker], seconds: float) -> float:
    """Return the images per second of all of them at once."""
    for worker in workers:
        worker.begin(seconds)
    return sum(float(worker.read()) for worker in workers)


def row(values: Sequence[float], unset: Sequence[float]) -> str:
    """Return the median speed, and the ratios to the speed without the setting."""
    ratios = [value / other for value, other in zip(values, unset, strict=True)]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return f"{statistics.median(values):.1f} | {statistics.median(ratios):.2f} ({spread})"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet18", help="torchvision model, %(default)s")
    parser.add_argument("--image-size", type=int, default=96, help="pixels, %(default)s")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=cpu_count(), help="of each process; the number of cores")
    parser.add_argument(
        "--values", nargs="+", default=VALUES, help="the first is what the others are compared with"
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    pairs = {value: (Worker(value), Worker(value)) for value in args.values}
    alone: dict[str, list[float]] = {value: [] for value in pairs}
    both: dict[str, list[float]] = {value: [] for value in pairs}
    for number in range(args.rounds):
        for value in args.values if number % 2 == 0 else reversed(args.values):
            alone[value].append(speed(pairs[value][:1], args.seconds))
            both[value].append(speed(pairs[value], args.seconds))
    print(
        "| `GOMP_SPINCOUNT` | one alone, images/s | ratio | two at once, together | ratio |\n|---|---|---|---|---|"
    )
    for value in pairs:
        cells = (row(speeds[value], speeds[args.values[0]]) for speeds in (alone, both))
        print(f"| {value} | {' | '.join(cells)} |")
    for worker in (worker for pair in pairs.values() for worker in pair):
        worker.process.communicate()  # no further line: it ends


if __name__ == "__main__":
    main()
