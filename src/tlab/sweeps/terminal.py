"""What the terminal shows of runs in this process: warnings, once; what a run prints lies in its directory."""

import io
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.markup import escape

from tlab.sweeps.jobs import Job
from tlab.sweeps.progress import Progress


@contextmanager
def printing_to_its_directory(job: Job, progress: Progress) -> Iterator[None]:
    """Send what a run prints to `output.txt` in its directory; a terminal shows its last epoch meanwhile."""
    job.run.path.mkdir(parents=True, exist_ok=True)
    title = f"[bold]{escape(str(job))}[/]  ({progress.line(progress.running)})"
    with ExitStack() as stack:
        file = stack.enter_context((job.run.path / "output.txt").open("a", encoding="utf-8"))
        show: Callable[[str], object] = lambda text: None  # noqa: E731
        if progress.console.is_terminal:
            # with a line below it, in which the bars of `tlab.data.progress` have their place
            status = stack.enter_context(progress.console.status(f"{title}\n", refresh_per_second=4))

            def show(text: str) -> None:
                if text.startswith("epoch "):
                    status.update(f"{title}  {escape(text.strip())}\n")

        stack.enter_context(redirect_stdout(_Output(file, show)))
        yield


@contextmanager
def printing_to(path: Path) -> Iterator[None]:
    """Write what is printed in the block to the end of a file, and print it all the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file, redirect_stdout(_Output(file, sys.stdout.write)):
        yield


@contextmanager
def warning_once(console: Console) -> Iterator[None]:
    """Print each warning of tlab once, however many runs it is true of: they have the same images."""
    handler, logger = _Once(console), logging.getLogger("tlab")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Output(io.TextIOBase):
    """A file, and somebody who is told what is written to it.

    Args:
        file: Written to as long as it is open; a logger may hold this object for longer.
        show: Takes the text.
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
