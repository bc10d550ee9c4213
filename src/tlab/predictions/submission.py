"""A submission: a sample of one, filled with predictions and otherwise the same, letter by letter."""

import logging
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from tlab.core.errors import UserError
from tlab.core.files import is_device_or_pipe
from tlab.core.text import counted, few, noun
from tlab.data.sources.label_table import as_seen, read_table, table_text
from tlab.data.sources.scan import Exclude
from tlab.data.sources.table_images import TableImages
from tlab.predictions.file_list import FileList
from tlab.predictions.inputs import column_of
from tlab.predictions.rows import NO_ANSWER, OTHER_PRECISION, Layout, Row

log = logging.getLogger(__name__)

DIGITS = 8  # behind the point, of a probability
LINE_END = re.compile(r"\r?\n|\r")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


class Sample:
    """A sample submission, as it is written.

    Args:
        file: The table: a column of ids, and a column of labels or one for each class.

    Raises:
        UserError: It does not exist, or is no such table.
    """

    def __init__(self, file: Path) -> None:
        if is_device_or_pipe(file):
            raise UserError(f"submission={file} is a pipe; give the file itself, which may be packed")
        try:
            self.table = read_table(file, [], "submission")
            text, encoding = table_text(file, "submission")
        except FileNotFoundError:
            raise UserError(f"submission={file} does not exist; give the sample submission") from None
        self.file, self.text = file, text
        self.mark = "\ufeff" if encoding == "utf-8-sig" else ""
        if not encoding.startswith("utf-8"):
            log.warning("%s is in %s; the submission is in UTF-8", file, encoding)
        self._cell = _cell_pattern(self.table.delimiter)
        rows = iter(self.rows(text))
        header = next(rows, (0, 0))
        if re.fullmatch(r"\s*sep=.\s*", text[: header[1]], re.IGNORECASE):  # as Excel writes it
            header = next(rows, header)
        self.header_end = header[1]
        self.ends = array("Q", [header[1], *(end for _, end in rows)])  # of each row, in the text
        if len(self.table.columns) < 2 or not len(self):
            raise UserError(
                f"submission={file} needs a line that names its columns, at least an id and a label, and a row for "
                "each image; give the sample submission"
            )
        if len(self) != len(self.table.rows):
            raise UserError(f"submission={file} has a quote that is not closed; close it")

    def __len__(self) -> int:
        return len(self.ends) - 1

    def rows(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield start and end of each row of a text that is not empty; blank lines belong to the next one."""
        start = end = 0
        while end < len(text):
            spans, end = self.cells(text, end)
            if any(text[one:two].strip(' \t"') for one, two in spans):
                yield start, end
                start = end

    def cells(self, text: str, start: int) -> tuple[list[tuple[int, int]], int]:
        """Return start and end of each cell of a row that begins at `start`, and the end of its line."""
        spans = []
        while True:
            match = self._cell.match(text, start)
            assert match is not None  # an empty cell is one
            spans.append(match.span())
            start = match.end()
            if text[start : start + 1] != self.table.delimiter:
                break
            start += 1
        line_end = LINE_END.match(text, start)
        return spans, line_end.end() if line_end else start

    def find_files(self, files: FileList, data: Mapping[str, Any]) -> FileList:
        """Return the file of each row, in their order.

        Args:
            files: The images that there are.
            data: The keys below `data`: `exclude`, `image_column`, `extension`.

        Raises:
            UserError: An id has no image, or may be several.
        """
        exclude = Exclude(data.get("exclude") or (), files.root)
        root, names = files.root, list(dict.fromkeys(files.names()))
        images = TableImages(self.table, root, root, exclude, data.get("extension"), names)
        self.id_column = column_of(self.table, images, data.get("image_column"))
        ids = [cell.strip() for cell in self.table.column(self.id_column)]
        found, _, remarks = images.find([*filter(None, ids)])
        if missing := [number for number, name in enumerate(ids) if name not in found]:
            raise UserError(
                f"submission={self.file}: {ids[missing[0]]!r} (row {missing[0] + 1}) has no image in {root} "
                f"({len(missing)} of {counted(ids, 'id')} {noun(len(missing), 'has', 'have')} none); give the "
                "folder that holds them all with input=DIR"
            )
        for sentence in (*remarks, *images.unlabeled(found.values(), ())):
            log.warning(sentence)
        return FileList(root, map(found.__getitem__, ids))

    def filled_by(self, classes: Sequence[str]) -> "SubmissionRows":
        """Return how rows of predictions are written into it.

        Raises:
            UserError: Its columns or labels are not the classes.
        """
        others = [name for name in self.table.columns if name != self.id_column]
        known = _matches(others, classes)
        if len(others) == 1 and (len(classes) != 2 or not known):
            spelled = self._spelled(others[0], classes)
            return SubmissionRows(self, others, None, {name: spelled.get(name, name) for name in classes})
        if strange := [name for name in others if name not in known]:
            part = f"{len(strange)} of {counted(others, 'column')} {noun(len(strange), 'is', 'are')} none"
            raise UserError(
                f"submission={self.file}: the column {strange[0]!r} is no class of this run ({part}), which knows "
                f"{few(classes, 20)}; give the sample of these classes"
            )
        lacking = [name for name in classes if name not in known.values()]
        if lacking and len(others) > 1:
            raise UserError(
                f"submission={self.file}: the class {lacking[0]!r} of this run has no column "
                f"({counted(lacking, 'class has', 'classes have')} none); give the sample of these classes"
            )
        return SubmissionRows(self, others, known, {})

    def _spelled(self, column: str, classes: Sequence[str]) -> dict[str, str]:
        """Return class -> how the sample's labels spell it, where that differs."""
        cells = Counter(self.table.column(column))
        as_written = {as_seen(cell): cell for cell, _ in reversed(cells.most_common())}  # of several the usual one
        labels = [label for label in dict.fromkeys(map(as_seen, cells)) if label]
        known = _matches(labels, classes)
        strange = [label for label in labels if label not in known]
        if strange and all(map(NUMBER.fullmatch, labels)):
            raise UserError(
                f"submission={self.file}: the column {column!r} holds numbers ({few(labels)}), while the classes "
                f"of this run have names ({few(classes)}), and which number is which is not known; train on labels "
                "that are these numbers, or put names in the sample"
            )
        if strange and len(labels) > 1:
            part = f"{len(strange)} of {counted(labels, 'label')} {noun(len(strange), 'is', 'are')} none"
            raise UserError(
                f"submission={self.file}: the label {strange[0]!r} is no class of this run ({part}), which knows "
                f"{few(classes, 20)}; give the sample of these classes"
            )
        if strange:
            log.warning("All labels in %s are %r, which is no class and taken for a blank", self.file, strange[0])
        spelled = {name: as_written[label] for label, name in known.items() if name != as_written[label]}
        if spelled:
            log.warning(
                "%s spelled as in %s: %s",
                *(counted(spelled, "class is", "classes are"), self.file, few(map(repr, spelled.values()))),
            )
        return spelled


class SubmissionRows(Layout):
    """The rows of a sample with predictions in them.

    Args:
        sample: The sample.
        columns: Columns to fill.
        class_of: Column -> class whose probability it gets; None: the only one gets the label.
        spelled: Class -> how it is written as a label; empty without labels.
    """

    def __init__(
        self, sample: Sample, columns: Sequence[str], class_of: Mapping[str, str] | None, spelled: Mapping[str, str]
    ) -> None:
        self.sample, self.class_of, self.spelled = sample, class_of, spelled
        self.places = {sample.table.columns.index(name): name for name in columns}
        self.header = sample.mark + sample.text[: sample.header_end]
        self.pattern = sample.text
        self.footer = sample.text[sample.ends[-1] :]
        cells = (sample.text[a:b].strip("\r\n") for a, b in pairwise(sample.ends))
        # else a quote may be an inch
        self.has_quotes = any(re.search(r"[\r\n]", text) for text in chain(cells, spelled.values()))

    def line(self, number: int, row: Row) -> str:
        """Return a row of the sample with its prediction.

        Raises:
            UserError: There is none.
        """
        if not row["prediction"]:
            repair = "repair the image or put a copy that can be read in its place, and the same command continues"
            raise UserError(
                f"submission={self.sample.file}: {row['path']} has no prediction ({row['reason']}), and half a "
                f"submission is refused; {OTHER_PRECISION if row['reason'] == NO_ANSWER else repair}"
            )
        text, (place, end) = self.sample.text, self.sample.ends[number : number + 2]
        spans, stop = self.sample.cells(text, place)
        while stop != end:  # a blank line before it
            spans, stop = self.sample.cells(text, stop)
        pieces = []
        for column, (one, two) in enumerate(spans):
            pieces += [text[place:one], self._cell(column, text[one:two], row)]
            place = two
        for column in range(len(spans), max(self.places) + 1):  # a row without its last cells
            pieces += [self.sample.table.delimiter, self._cell(column, "", row)]
        return "".join([*pieces, text[place:end]])

    def _cell(self, column: int, old: str, row: Row) -> str:
        if column not in self.places:
            return old
        if self.class_of is None:
            new = self.spelled[row["prediction"]]
        else:
            new = f"{row[f'p({self.class_of[self.places[column]]})']:.{DIGITS}f}"
        special = re.search(rf"[{re.escape(self.sample.table.delimiter)}\"\r\n]|^\s|\s$", new)
        return f'"{new.replace(chr(34), chr(34) * 2)}"' if special or old.strip().startswith('"') else new

    def read(self, record: str) -> Row:
        """Return no reason: a row without a prediction is not written.

        Raises:
            ValueError: It is no single row, since a quote that is an inch was taken for one around a cell.
        """
        if len([*self.sample.rows(record)]) != 1:
            raise ValueError("no single row")
        return {"reason": ""}


def _cell_pattern(delimiter: str) -> re.Pattern[str]:
    """Return the pattern of a cell as written, in quotes or not."""
    plain, blanks = rf"[^{re.escape(delimiter)}\r\n]*", "" if delimiter == " " else " *"
    return re.compile(rf'{blanks}"(?:[^"]|"")*"{plain}|{plain}')


def _matches(names: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Return name -> class, for each name that is one but for case, blanks and underscores, and no other's."""
    exact = {as_seen(name): name for name in classes}
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(_folded(name), []).append(name)
    found = {}
    for name in names:
        near = alike.get(_folded(name), [])
        if match := exact.get(as_seen(name)) or (near[0] if len(near) == 1 else None):
            found[name] = match
    taken = list(found.values())
    return {name: match for name, match in found.items() if taken.count(match) == 1 or as_seen(match) == name}


def _folded(name: str) -> str:
    return re.sub(r"[\s_]+", "", as_seen(name).casefold())
