"""A progress bar for work that takes a while."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
SHOWN_AFTER = 1.0  # seconds before work is worth a progress bar or a log line


def shown(items: Iterable[T], description: str, total: int, size: Callable[[T], int] | None = None) -> Iterator[T]:
    """Yield the items; on a terminal, show a bar with the rate once that has taken longer than `SHOWN_AFTER`.

    Args:
        items: Images or groups of images.
        description: Text before the bar.
        total: Number of images.
        size: Function that returns the number of images of an item; None: each is one.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    task = bar.add_task(description, total=total, rate="")
    start, count = time.monotonic(), 0
    try:
        for item in items:
            seconds = time.monotonic() - start
            if seconds > SHOWN_AFTER and sys.stderr.isatty():
                bar.start()
                bar.update(task, completed=count, rate=f"{count / seconds:,.0f} images/s")
            yield item
            count += size(item) if size else 1
    finally:
        if bar.live.is_started:
            bar.stop()
