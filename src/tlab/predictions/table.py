"""A table that grows row by row beside its place, and that a command which was killed leaves for the next one."""

import csv
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import IO, Literal

from tlab.core.errors import UserError
from tlab.core.files import is_device_or_pipe
from tlab.core.locks import FileLock
from tlab.core.text import counted
from tlab.predictions.file_list import FileList
from tlab.predictions.rows import Layout, Row

log = logging.getLogger(__name__)


class Table:
    """A file of rows, as a context; only `finish` gives it its name, in one step.

    Until then the rows lie beside it, in a file whose name has digests of what makes them what they are. The next
    command with the same ones takes it up where its whole rows end, at a multiple of the batch size, so that its
    batches are those of a command that was not killed. The rows of a file that has changed since, and of those
    after it, are made anew. A device or a pipe is written at once.

    Args:
        target: Path of the file.

    Attributes:
        start: Number of rows that it held already when it was begun.

    Raises:
        UserError: On entering: another process is writing this file.
    """

    def __init__(self, target: Path) -> None:
        self.is_streamed = is_device_or_pipe(target)
        self.target = target.resolve() if target.is_symlink() and not self.is_streamed else target
        self.start = self._count = 0
        self._lock = FileLock(self._beside("lock"), removed=True)
        self._part: Path | None = None
        self._file: IO[str] | None = None

    def __enter__(self) -> "Table":
        if not self.is_streamed and not self._lock.acquire(wait=False):
            raise UserError(
                f"another command is writing output={self.target}; wait for it, or give another output=FILE"
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError):  # what is still to be written, after it could not be
                self._file.close()
        if self._part is not None and not self._count:
            self._part.unlink(missing_ok=True)
        self._lock.release()

    def begin(
        self,
        layout: Layout,
        files: FileList,
        batch_size: int,
        made_by: Mapping[str, bytes],
        earlier: Callable[[int, Row], None],
    ) -> None:
        """Open the file, with what an earlier command has left of it.

        Args:
            layout: How the rows are written.
            files: The files that the rows are of.
            batch_size: Number of files in a batch.
            made_by: What makes the rows what they are, and its digest.
            earlier: Function that is told the number of each row that is there, and what `Layout.read` says of it.
        """
        self._layout = layout
        if self.is_streamed:
            self._file = _opened(self.target, "w")
            self._write(layout.header)
            return
        part = self._beside("-".join(digest.hex()[:8] for digest in made_by.values()) + ".part")
        self._drop_others(part, list(made_by))
        if part.exists():
            self.start = self._count = _take_up(part, layout, files, batch_size, earlier)
        self._part = part
        self._file = _opened(part, "a")
        if not part.stat().st_size:
            self._write(layout.header)

    def write(self, rows: Iterable[Row]) -> None:
        """Write the rows of a batch, which then outlive the command."""
        lines = [self._layout.line(number, row) for number, row in enumerate(rows, self._count)]
        self._write("".join(lines))
        self._count += len(lines)

    def finish(self) -> None:
        """Give the file its name."""
        assert self._file is not None
        self._write(self._layout.footer)
        self._file.close()
        if self._part is not None:
            self._part.replace(self.target)

    def _write(self, text: str) -> None:
        assert self._file is not None
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            error.filename = str(self.target)
            raise

    def _beside(self, ending: str) -> Path:
        return self.target.with_name(f".{self.target.name}.{ending}")

    def _drop_others(self, part: Path, made_by: list[str]) -> None:
        """Remove what commands with other images, models or settings have left of this file, and say so."""
        shape = re.escape(f".{self.target.name}.") + "-".join(["([0-9a-f]{8})"] * len(made_by)) + r"\.part"
        own = re.fullmatch(shape, part.name)
        assert own is not None
        for other in part.parent.glob(f".{escape(self.target.name)}.*.part"):
            if other != part and (theirs := re.fullmatch(shape, other.name)):
                pairs = zip(made_by, own.groups(), theirs.groups(), strict=True)
                different = " and ".join(what for what, one, two in pairs if one != two)
                log.warning("Begins anew: an unfinished %s is of other %s", self.target.name, different)
                other.unlink()


def _opened(path: Path, mode: Literal["w", "a"]) -> IO[str]:
    return path.open(mode, encoding="utf-8", errors="backslashreplace", newline="")


def _take_up(
    part: Path, layout: Layout, files: FileList, batch_size: int, earlier: Callable[[int, Row], None]
) -> int:
    """Cut a file behind its last whole batch of rows, and return their number."""
    written = part.stat().st_mtime_ns
    head = layout.header.encode("utf-8", "backslashreplace")
    with part.open("rb+") as file:
        kept, rows, batch = 0, 0, list[Row]()
        if file.read(len(head)) == head:
            kept = end = len(head)
            for record in _records(file, layout.has_quotes):
                if rows + len(batch) == len(files):
                    break
                if _has_changed(path := files.path(rows + len(batch)), written):
                    log.warning("%s has changed: its row, and those after it, are made anew", path)
                    break
                try:
                    batch.append(layout.read(record.decode("utf-8")))
                except (ValueError, csv.Error):
                    break
                end += len(record)
                if len(batch) == batch_size or rows + len(batch) == len(files):
                    for number, row in enumerate(batch, rows):
                        earlier(number, row)
                    kept, rows, batch = end, rows + len(batch), []
        file.truncate(kept)
    if rows:
        log.warning("Continues after %d of %s, which an earlier command has left", rows, counted(len(files), "row"))
    return rows


def _records(lines: Iterable[bytes], has_quotes: bool) -> Iterator[bytes]:
    """Yield whole rows, each with its line end and the blank lines before it."""
    record, quotes = b"", 0
    for line in lines:
        record += line
        quotes += line.count(b'"') if has_quotes else 0
        if line.endswith(b"\n") and quotes % 2 == 0 and record.strip():
            yield record
            record, quotes = b"", 0


def _has_changed(path: str, since: int) -> bool:
    """Tell whether a file, or its name, has changed at a time in ns or later; one that is not there has not."""
    try:
        return os.stat(path).st_ctime_ns >= since  # noqa: PTH116 - Path is slow here
    except OSError:
        return False
