"""How the rows of a table of predictions are written: as CSV or as JSON lines."""

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from tlab.core.files import csv_line
from tlab.core.text import as_text

Row = dict[str, Any]  # column -> a text, a number, true or false, or a list of texts; what is missing is empty

DIGITS = 6  # behind the point
NO_ANSWER = "the network's answer is no finite number"  # a reason, about which `precision` may do something
OTHER_PRECISION = "precision=32-true may help, if it is another; else give another run"


class Layout(ABC):
    """How rows are written, one after the other, so that a file can be taken up again where it ends.

    Attributes:
        header: What stands before the first row.
        pattern: All that the rows have besides predictions.
        footer: What stands behind the last one.
        has_quotes: Whether a line end between double quotes belongs to a cell.
    """

    header = footer = pattern = ""
    has_quotes = False

    @abstractmethod
    def line(self, number: int, row: Row) -> str:
        """Return a row as written, with its line end.

        Args:
            number: Its number, from 0.
            row: The row.
        """

    @abstractmethod
    def read(self, record: str) -> Row:
        """Return what a row as written says besides the prediction: `reason`, mostly "", and `known`, where it can.

        Raises:
            ValueError, csv.Error: It is no whole row.
        """


class CsvRows(Layout):
    """A CSV table with a header.

    Args:
        classes: Names of the classes.
        additions: Columns after their probabilities.
    """

    has_quotes = True

    def __init__(self, classes: Sequence[str], additions: Sequence[str] = ()) -> None:
        self.columns = columns_of(classes, additions)
        self.header = self.pattern = csv_line(self.columns)

    def line(self, number: int, row: Row) -> str:
        """Return a row as written, with its line end."""
        return csv_line(map(_cell, map(row.get, self.columns)))

    def read(self, record: str) -> Row:
        """Return what a row as written says besides the prediction."""
        cells = next(csv.reader([record]))
        if len(cells) != len(self.columns):
            raise ValueError("a row of another table")
        known = dict(zip(self.columns, cells, strict=True)).get("known")
        return {"reason": cells[-1], "known": known == "true" if known else None}


class JsonRows(Layout):
    """An object a line, which has all columns; arguments as for `CsvRows`."""

    def __init__(self, classes: Sequence[str], additions: Sequence[str] = ()) -> None:
        self.columns = columns_of(classes, additions)
        self.pattern = json.dumps(self.columns)

    def line(self, number: int, row: Row) -> str:
        """Return a row as written, with its line end; what is missing is null."""
        cells = dict.fromkeys(self.columns) | rounded(row)
        cells |= {"path": as_text(row["path"]), "prediction": row["prediction"] or None}
        return json.dumps(cells, ensure_ascii=False) + "\n"

    def read(self, record: str) -> Row:
        """Return what a row as written says besides the prediction."""
        row = json.loads(record)
        if not isinstance(row, dict) or [*row] != self.columns:
            raise ValueError("a row of another table")
        return {"reason": row["reason"] or "", "known": row.get("known")}


def columns_of(classes: Sequence[str], additions: Sequence[str] = ()) -> list[str]:
    """Return the columns of all rows; `additions` are those after the probabilities."""
    return ["path", "prediction", "probability", *(f"p({name})" for name in classes), *additions, "reason"]


def rounded(row: Row) -> Row:
    """Return a row with its numbers as they are written."""
    return {key: round(value, DIGITS) if isinstance(value, float) else value for key, value in row.items()}


def _cell(value: Any) -> str:
    """Return a value as a cell; a list's texts are a CSV line of their own, with bars between them."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.{DIGITS}f}"
    return joined(value) if isinstance(value, list) else value or ""


def joined(names: Sequence[str]) -> str:
    """Return names with bars between them, each that has a bar, a quote or a line end in double quotes."""
    text = io.StringIO()
    csv.writer(text, delimiter="|").writerow(names)  # which puts line ends in quotes, as it ends lines itself
    return text.getvalue().removesuffix("\r\n")
