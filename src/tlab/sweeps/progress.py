"""How far a sweep is: counted from the run directories, and how long the rest will take."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from tlab.dashboards.closing_table import duration
from tlab.sweeps.jobs import Job
from tlab.sweeps.task import Failure


class Progress:
    """Counts a sweep's runs and says how far it is.

    Args:
        jobs: All runs of the command.
        waiting: Those that were not finished when it began.

    Attributes:
        at_once: How many runs there are at a time.
        running: How many runs of this machine's own processes are under way.
    """

    def __init__(self, jobs: Sequence[Job], waiting: Sequence[Job]) -> None:
        self.jobs = list(jobs)
        self.waiting = list(waiting)
        self.before = len(jobs) - len(waiting)
        self.finished: list[Job] = []
        self.failures: dict[Job, Failure] = {}
        self.at_once = 1
        self.running = 1
        self.console = Console(
            file=sys.stdout, highlight=False, soft_wrap=True
        )  # even while a run prints elsewhere
        self._over: set[Job] = set()
        self._seconds: dict[str, list[float]] = {}
        remaining = set(self.waiting)
        for job in self.jobs:
            if job not in remaining:
                self._learn(job)
        if self.before:
            self.console.print(f"{self.before} of {len(self.jobs)} runs are finished and stay as they are")

    @property
    def to_go(self) -> list[Job]:
        """The runs that have neither finished nor failed."""
        return [job for job in self.waiting if job not in self._over]

    @property
    def done(self) -> int:
        """How many runs are finished, by this command or before."""
        return self.before + len(self.finished)

    def tell(self, job: Job, failure: Failure | None, running: int) -> None:
        """Print what has become of a run, how long it took, and how far the sweep is."""
        what = f"[red]failed[/]: {escape(failure.reason)}" if failure else _result(job)
        self.console.print(f"[bold]{escape(str(job))}[/]  {what}  ({self.line(running)})")

    def note(self, job: Job, failure: Failure | None) -> None:
        """Take note that a run is over."""
        self._over.add(job)
        if failure is None:
            self.finished.append(job)
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
