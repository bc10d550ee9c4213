"""What the terminal shows of runs in other processes: a live table, or a line whenever one ends."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich import box
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from tlab.core.text import duration
from tlab.runs.directory import TIME
from tlab.sweeps.jobs import Job
from tlab.sweeps.progress import Progress
from tlab.sweeps.result import Failure

EVERY = 1.0  # seconds between two looks
SHOWN = 12  # runs in the live table


class Monitor:
    """Reads the directories of the runs that this command has started elsewhere.

    Args:
        jobs: Runs to watch.
        progress: Where outcomes are recorded.

    Attributes:
        left: Those whose outcome is not known yet.
    """

    def __init__(self, jobs: Sequence[Job], progress: Progress) -> None:
        self.progress = progress
        self.left = list(jobs)
        self._running: dict[Job, dict[str, Any]] = {}  # their records
        self._began = time.time() - 1  # records have whole seconds
        self._lock = threading.RLock()  # a signal handler looks too

    def refresh(self) -> int:
        """Read what has happened since the last call; returns how many runs are under way."""
        with self._lock:
            records = {job: job.run.record for job in self.left}
            self._running = {
                job: record for job, record in records.items() if self._is(record, "running", "started")
            }
            for job, record in records.items():
                if self._is(record, "finished", "ended"):
                    self.record(job, None)
                elif self._is(record, "failed", "ended") and record.get("error") != "interrupted":
                    self.record(job, Failure(str(record.get("error")).removeprefix("UserError: ")))
            return len(self._running)

    def record(self, job: Job, failure: Failure | None) -> None:
        """Record the outcome of a run, unless it is known."""
        with self._lock:
            if job in self.left:
                self.left.remove(job)
                self._running.pop(job, None)
                self.progress.report(job, failure, len(self._running))

    def is_over(self, job: Job) -> bool:
        """Tell whether a run's outcome is known."""
        return job not in self.left

    def is_running(self, job: Job) -> bool:
        """Tell whether the run was under way at the last call."""
        return job in self._running

    @contextmanager
    def refreshing(self) -> Iterator[None]:
        """Show how far the runs are for as long as the block lasts."""
        live = Live(console=self.progress.console, auto_refresh=False, transient=True)

        def refresh() -> None:
            self.refresh()
            if live.console.is_terminal:
                live.update(self._table(), refresh=True)

        with live, polling(refresh):
            yield

    def _is(self, record: dict[str, Any], status: str, since: str) -> bool:
        """Tell whether a run has reached `status` since this command began."""
        if record.get("status") != status or not record.get(since):
            return False
        return datetime.strptime(record[since], TIME).timestamp() >= self._began

    def _table(self) -> Table | str:
        """Return the runs under way, each with its last epoch."""
        if not self._running:
            return self.progress.line(0)
        table = Table(box=box.SIMPLE_HEAD, title=self.progress.line(len(self._running)), title_justify="left")
        for column in ("run", "epoch", "val/acc", "for"):
            table.add_column(column, justify="left" if column == "run" else "right", no_wrap=column != "run")
        for job, record in list(self._running.items())[:SHOWN]:
            rows = job.run.history()
            last = rows[-1] if rows else {}
            accuracy = f"{float(last['val/acc']):.1%}" if last.get("val/acc") else ""
            since = time.time() - datetime.strptime(record["started"], TIME).timestamp()
            table.add_row(escape(str(job)), str(len(rows)), accuracy, duration(max(0.0, since)))
        if len(self._running) > SHOWN:
            table.add_row(f"and {len(self._running) - SHOWN} more", "", "", "")
        return table


@contextmanager
def polling(function: Callable[[], object]) -> Iterator[None]:
    """Call `function` every second while the block lasts, in a thread of its own, and once when it has ended."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(EVERY):
            function()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        function()
