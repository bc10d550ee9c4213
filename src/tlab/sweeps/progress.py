"""How far a sweep is: counted from the run directories, and how long the rest will take."""

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
    """

    def __init__(self, jobs: Sequence[Job], waiting: Sequence[Job]) -> None:
        self.jobs = list(jobs)
        self.waiting = list(waiting)
        self.before = len(jobs) - len(waiting)
        self.finished: list[Job] = []
        self.failures: dict[Job, Failure] = {}
        self.at_once = 1
        self.console = Console(highlight=False, soft_wrap=True)
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

    def announce(self, job: Job) -> None:
        """Say which run begins, and how far the sweep is."""
        self.console.print(f"\n[bold]{escape(str(job))}[/]  ({self.line(1)})")

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
