"""How far a sweep is: counted from the run directories, and how long the rest will take."""

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.markup import escape

from tlab.config.overrides import as_override
from tlab.core.standard_streams import REPLACING
from tlab.core.text import duration, short_path
from tlab.runs import environment
from tlab.sweeps.jobs import Job
from tlab.sweeps.result import Failure


class Progress:
    """Counts a sweep's runs and says how far it is.

    Args:
        jobs: All runs of the command.
        waiting: Those of them that were not finished when it began.

    Attributes:
        to_go: Runs that have neither finished nor failed.
        before: Number of runs that were finished when the command began.
        failures: Runs that failed.
        at_once: Number of runs at a time.
        running: Number of runs under way in processes of this machine.
    """

    def __init__(self, jobs: Sequence[Job], waiting: Sequence[Job]) -> None:
        self.jobs = list(jobs)
        self.to_go = list(waiting)
        self.before = len(jobs) - len(waiting)
        self.failures: dict[Job, Failure] = {}
        self.at_once = 1
        self.running = 1
        # even while a run prints elsewhere
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._seconds: dict[str, list[float]] = {}
        for job in set(jobs).difference(waiting):
            self._learn(job)
        if self.before:
            self.console.print(f"{self.before} of {len(self.jobs)} runs are finished and stay as they are")

    @property
    def done(self) -> int:
        """How many runs are finished, by this command or before."""
        return len(self.jobs) - len(self.to_go) - len(self.failures)

    def report(self, job: Job, failure: Failure | None, running: int) -> None:
        """Record that a run has ended, and print its outcome, how long it took, and how far the sweep is."""
        self.record(job, failure)
        what = f"[red]failed[/]: {escape(failure.reason)}" if failure else _result(job)
        self.console.print(f"[bold]{escape(str(job))}[/]  {what}  ({self.line(running)})")

    def record(self, job: Job, failure: Failure | None) -> None:
        """Record that a run has ended."""
        self.to_go.remove(job)
        if failure is None:
            self._learn(job)
        else:
            self.failures[job] = failure

    def line(self, running: int) -> str:
        """Return `3 of 12 done, 1 running, 0 failed, about 5 min left`."""
        left = self.seconds_left()
        time = "" if left is None else f", about {duration(left)} left"
        return f"{self.done} of {len(self.jobs)} done, {running} running, {len(self.failures)} failed{time}"

    def seconds_left(self) -> float | None:
        """Return how long the runs to go will take, from those that have finished; None while none has.

        A run is taken to last as long as those that differ in the seed only; where there is none, as long as all.
        """
        every = [seconds for several in self._seconds.values() for seconds in several]
        if not every:
            return None
        means = {name: sum(several) / len(several) for name, several in self._seconds.items()}
        mean = sum(every) / len(every)
        return sum(means.get(job.name, mean) for job in self.to_go) / self.at_once

    def _learn(self, job: Job) -> None:
        seconds = job.seconds()
        if seconds is not None:
            self._seconds.setdefault(job.name, []).append(seconds)


def _result(job: Job) -> str:
    """Return `val/acc 91.2%  test/acc 90.0%  12.3 s` of a finished run."""
    figures = [
        f"{name} {value:.1%}" for name, value in job.run.metrics().items() if name in ("val/acc", "test/acc")
    ]
    seconds = job.seconds()
    return "  ".join([*figures, *([duration(seconds)] if seconds is not None else [])])


def print_end(directory: Path, progress: Progress) -> None:
    """Print how many runs are finished, and a line for each that has failed."""
    console = progress.console
    earlier = f" ({progress.before} of them before)" if progress.before else ""
    console.print(f"\n[bold]Sweep[/]  {escape(str(short_path(directory)))}")
    console.print(
        f"{progress.done} of {len(progress.jobs)} runs are finished{earlier}, {len(progress.failures)} failed"
    )
    for job, failure in progress.failures.items():
        console.print(f"  [bold]{escape(str(job))}[/]  {escape(failure.reason)}")
        if job.run.traceback_file.exists():
            console.print(f"    {escape(str(short_path(job.run.traceback_file)))}")
    if progress.failures:
        console.print(f"what failed is tried again by: {escape(same_command(directory))}")


def print_stopped(directory: Path, jobs: Sequence[Job]) -> None:
    """Print that the sweep was stopped, how far it is, and the command that resumes it."""
    done = sum(job.run.status == "finished" for job in jobs)
    print(
        f"tlab: the sweep is stopped, {done} of {len(jobs)} runs are finished; it is resumed by\n"
        f"  {same_command(directory)}",
        file=sys.stderr,
    )


def same_command(directory: Path) -> str:
    """Return the command of this process, with the name of the sweep that it has begun; a study has its own."""
    same = environment.same_command(as_override("sweep", directory.name), unless=("sweep", "hydra.sweep.dir"))
    return os.environ.get("TLAB_COMMAND") or same


@contextmanager
def printing_to_its_directory(job: Job, progress: Progress) -> Iterator[None]:
    """Send what a run prints to `output.txt` in its directory; a terminal shows its last epoch meanwhile."""
    title = f"[bold]{escape(str(job))}[/]  ({progress.line(progress.running)})"
    # with a line below it, in which the bars of `tlab.data.progress_bar` have their place
    status = progress.console.status(f"{title}\n", refresh_per_second=4)

    def show(text: str) -> None:
        if text.startswith("epoch "):
            status.update(f"{title}  {escape(text.strip())}\n")

    with status if progress.console.is_terminal else nullcontext(), printing_to(job.run.path / "output.txt", show):
        yield


@contextmanager
def printing_to(path: Path, show: Callable[[str], object] | None = None) -> Iterator[None]:
    """Write what is printed in the block to the end of a file, and give it to `show`; None: it is printed too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("a", encoding="utf-8", errors=REPLACING) as file,
        redirect_stdout(_Output(file, show or sys.stdout.write)),
    ):
        yield


@contextmanager
def warning_once(console: Console) -> Iterator[None]:
    """Print each of tlab's warnings once, however many runs give it: they have the same images."""
    handler, logger = _Once(console), logging.getLogger("tlab")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Output(io.TextIOBase):
    """A stream that writes to a file and passes the text on.

    Args:
        file: File to write to as long as it is open; a logger may hold this object for longer.
        show: Function that takes the text too.
    """

    def __init__(self, file: TextIO, show: Callable[[str], object]) -> None:
        self.file = file
        self.show = show

    def write(self, text: str) -> int:
        if not self.file.closed:
            self.file.write(text)
            self.file.flush()
        self.show(text)
        return len(text)


class _Once(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self.console = console
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._told:
            self._told.add(message)
            self.console.print(message, markup=False)
