"""Folders that tlab makes itself: built once, whole or not at all, with a progress bar when it takes a while."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tlab.errors import UserError

T = TypeVar("T")
PATIENCE = 1.0  # seconds before work is worth a progress bar


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Return `target`; where it is missing, let `build` fill a new folder beside it and rename that.

    A crash leaves nothing at `target`. Of several processes that build at the same time the first to finish wins;
    the others throw theirs away.

    Raises:
        UserError: the folder cannot be written (permissions, a full disk).
    """
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as beside:
            fresh = Path(beside) / "folder"  # inside, since a temporary folder is closed to other users
            fresh.mkdir()
            build(fresh)
            try:
                fresh.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{target} cannot be written ({reason}): make room there, or name another folder with TLAB_CACHE."
        ) from error
    return target


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def shown(items: Sequence[T], description: str) -> Iterator[T]:
    """Pass the items on; on a terminal, show a bar with the rate once that has taken longer than `PATIENCE`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    task = bar.add_task(description, total=len(items), rate="")
    start, started = time.monotonic(), False
    try:
        for count, item in enumerate(items):
            seconds = time.monotonic() - start
            if not started and seconds > PATIENCE and sys.stderr.isatty():
                bar.start()
                started = True
            if started:
                bar.update(task, completed=count, rate=f"{count / seconds:,.0f} images/s")
            yield item
    finally:
        if started:
            bar.stop()
