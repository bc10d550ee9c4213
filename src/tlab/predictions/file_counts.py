"""Numbers of files without a prediction and of those that are not quite in order, and what is said of them."""

import logging
from collections import Counter
from collections.abc import Sequence

from tlab.core.text import as_text, noun
from tlab.data.decode_options import EXTRA_BYTES, MOSTLY_THERE, Levels, far_remarks, is_far
from tlab.data.sources.verify import FileCheck
from tlab.predictions.file_list import FileList
from tlab.predictions.rows import NO_ANSWER, OTHER_PRECISION, Row

log = logging.getLogger(__name__)

NAMED = {MOSTLY_THERE: 3, EXTRA_BYTES: 3}  # files that are named; of those without a prediction 10 for each reason
UNKNOWN = 3  # images unlike those of training that are named
REASONS = 8  # that are told


class FileCounts:
    """Counts files by what is to be said of them, with the names of a few.

    Args:
        files: The files.
        levels: Black and white of samples of more than 8 bits, by the training images.
    """

    def __init__(self, files: FileList, levels: Levels) -> None:
        self.files, self.levels = files, levels
        self._counts: Counter[str] = Counter()  # reason or damage -> number of files
        self._names: dict[str, list[str]] = {}
        self._deep: Counter[str] = Counter()  # kind of samples of more than 8 bits -> number of images
        self._far: Counter[str] = Counter()
        self._known: Counter[bool] = Counter()
        self._unknown: list[str] = []  # names of the first few

    @property
    def unreadable(self) -> int:
        """Number of files without a prediction."""
        return sum(count for what, count in self._counts.items() if what not in NAMED)

    @property
    def unknown(self) -> float | None:
        """Share of the predicted images that are not like those of training; None where that cannot be told."""
        return self._known[False] / self._known.total() if self._known else None

    @property
    def unknown_files(self) -> str:
        """The first few of them, and the number of others."""
        return _and_more(self._unknown, self._known[False])

    def add(self, number: int, check: FileCheck) -> None:
        """Count a file."""
        if what := check.reason or check.damage:
            self._counts[what] += 1
            names = self._names.setdefault(what, [])
            if len(names) < NAMED.get(what, 10):
                names.append(as_text(self.files.name(number)))
        if check.samples is not None:
            self._deep[check.samples.kind] += 1
            self._far[check.samples.kind] += is_far(check.samples, self.levels)

    def count(self, number: int, known: bool | None) -> None:
        """Count a predicted image by whether it is like those of training."""
        if known is not None:
            self._known[known] += 1
            if not known and len(self._unknown) < UNKNOWN:
                self._unknown.append(as_text(self.files.name(number)))

    def add_row(self, number: int, row: Row) -> None:
        """Count a file by what its row says, which an earlier command has written."""
        self.add(number, FileCheck(reason=row["reason"]))
        self.count(number, row.get("known"))

    def log(self) -> None:
        """Log a line for each kind of file that is not in order."""
        reasons = [what for what, _ in self._counts.most_common() if what not in NAMED]
        if reasons:
            told = ", ".join(f"{self._few(what)} ({what})" for what in reasons[:REASONS])
            others = len(reasons) - REASONS
            more = f" and {others} more {noun(others, 'reason')}" if others > 0 else ""
            way_out = f"; {OTHER_PRECISION}" if NO_ANSWER in reasons else ""
            log.warning("%d without a prediction: %s", self.unreadable, told + more + way_out)
        if count := self._counts[MOSTLY_THERE]:
            log.warning("%d predicted from the part of the image that is there: %s", count, self._few(MOSTLY_THERE))
        if count := self._counts[EXTRA_BYTES]:
            log.warning("%d with %s: %s", count, EXTRA_BYTES, self._few(EXTRA_BYTES))
        for remark in far_remarks(self._far, self._deep, self.levels):
            log.warning(remark)

    def _few(self, what: str) -> str:
        return _and_more(self._names[what], self._counts[what])


def _and_more(names: Sequence[str], number: int) -> str:
    more = number - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
