"""Columns of a table besides image and label: what splits and groups the images, and what is kept for reports."""

import difflib
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from tlab.config.overrides import exclude_argument, shell_argument
from tlab.core.errors import UserError
from tlab.core.text import counted, few
from tlab.data.sources.label_table import LabelTable, as_seen
from tlab.data.sources.split_folders import split_of, splits_of
from tlab.data.sources.splitting.groups import groups_by_pattern, lone_images

MISSING = ("nan", "n/a", "na", "null", "<na>", "nat")  # as pandas and spreadsheets write it
MOST_NAMED = 20  # images in an argument to type, or values of a column that names splits


class TextColumn:
    """Texts in one block of memory, without a Python object for each.

    Args:
        texts: The texts; undecodable bytes of file names are kept.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        self._block = b"".join(encoded)
        self._ends = array("Q", accumulate(map(len, encoded), initial=0))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, row: int) -> str:
        return self._block[self._ends[row] : self._ends[row + 1]].decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class ExtraColumns:
    """Columns of a table with a row for each image.

    Attributes:
        files: The images: POSIX paths relative to the root, or absolute.
        cells: Name of a column -> its cells, in the order of the files.
    """

    files: TextColumn
    cells: Mapping[str, TextColumn]


def extra_columns(table: LabelTable, file_of: Mapping[int, str], used: Collection[str]) -> ExtraColumns:
    """Return the columns of a table that are not used up; of the rows of one image the first counts.

    Args:
        table: The table.
        file_of: Number of a row -> its image.
        used: Names of columns to leave out; those without a name are too.
    """
    rows: dict[str, int] = {}
    for number, file in file_of.items():
        rows.setdefault(file, number)
    names = {name: place for place, name in reversed([*enumerate(table.columns)]) if name and name not in used}
    cells = {
        name: TextColumn(table.rows[number][names[name]].strip() for number in rows.values())
        for name in table.columns
        if name in names
    }
    return ExtraColumns(TextColumn(rows), cells)


def read_splits(
    table: LabelTable, column: str, names: Mapping[int, str], for_training: bool
) -> tuple[dict[int, str], list[str]]:
    """Return number of a row -> train, val or test, as its cell says, and a remark on rows without.

    Args:
        table: The table.
        column: `data.split_column`.
        names: Number of each row that may be used -> name of its image.
        for_training: Whether there has to be train. Otherwise a table that is not split so gives no row.

    Raises:
        UserError: There is no such column, it has other values, or no row is for training.
    """
    if column not in table.columns:
        if not for_training:
            return {}, []
        others = [name for name in table.columns if _names_splits(Counter(table.column(name)))]
        others += difflib.get_close_matches(column, table.columns, n=1, cutoff=0.5)
        raise UserError(
            f"data.split_column={column} is no column of {table.file}, which has {', '.join(table.columns)}; give "
            f"{shell_argument('data.split_column', others[0] if others else None)}"
        )
    cells = table.column(column)
    values = {number: as_seen(cells[number]) for number in names}
    values = {number: value for number, value in values.items() if value and value.casefold() not in MISSING}
    sizes = Counter(values.values())
    splits = {value: split for value, split in splits_of(sizes).items() if split}
    if not for_training and len(splits) < len(sizes):
        return {}, []
    told = f"data.split_column={column} of {table.file} has " + few(
        (f"{value!r} ({count})" for value, count in sizes.most_common()), MOST_NAMED
    )
    way_out = "correct the cells, or give data.split_column=null to have val drawn by data.val_fraction"
    if other := [value for value in sizes if value not in splits]:
        what = "is none" if len(other) == 1 else "are none"
        raise UserError(f"{told}, of which {few(map(repr, other))} {what} of train, val and test: {way_out}")
    if for_training and "train" not in splits.values():
        raise UserError(f"{told if sizes else f'{told}no value'}, so that there is nothing to train on: {way_out}")
    empty = [name for number, name in names.items() if number not in values]
    remark = (
        f"{counted(empty, 'row', 'rows')} of {table.file} without a split in the column {column} "
        f"{'is' if len(empty) == 1 else 'are'} not used: {few(empty)}."
    )
    return {number: splits[value] for number, value in values.items()}, [remark][: len(empty)]


def unused_splits(table: LabelTable, used: Collection[str | None]) -> Iterator[str]:
    """Yield a sentence on each column that names splits, but is not used."""
    for name in table.columns:
        images = Counter(table.column(name)) if name not in used else Counter[str]()
        if _names_splits(images):
            sizes = ", ".join(f"{cell} {count}" for cell, count in images.items())
            yield (
                f"The column {name} of {table.file} names splits ({sizes}), but is not used; "
                f"{shell_argument('data.split_column', name)} takes them as they are."
            )


def _names_splits(cells: Collection[str]) -> bool:
    splits = {split_of(cell) for cell in cells} if len(cells) < MOST_NAMED else {None}
    return "train" in splits and len(splits) > 1 and None not in splits


def table_groups(table: LabelTable, group: str, file_of: Mapping[int, str]) -> tuple[dict[str, str], list[str]]:
    """Return file -> its group, from a column of that name or by a regular expression, and remarks.

    Args:
        table: The table.
        group: `data.group`.
        file_of: Number of a row -> its image.

    Raises:
        UserError: There is no such column, and it is no pattern that finds groups; or an image has two.
    """
    if group not in table.columns:
        nearest = difflib.get_close_matches(group, table.columns, n=1)
        no_column = f"is no column of {table.file}, which has {', '.join(table.columns)}, and as a pattern "
        return groups_by_pattern(group, dict.fromkeys(file_of.values()), no_column, next(iter(nearest), None))
    cells = table.column(group)
    seen = ((file, as_seen(cells[number])) for number, file in file_of.items())
    values = ((file, cell) for file, cell in seen if cell and cell.casefold() not in MISSING)
    found = one_of_each(table, values, f"values of {group}")
    if not found:
        raise UserError(f"data.group={group} of {table.file} is empty for all images; give another column")
    return found, lone_images([f for f in dict.fromkeys(file_of.values()) if f not in found], group)


def one_of_each(table: LabelTable, values: Iterable[tuple[str, str]], what: str) -> dict[str, str]:
    """Return file -> its value in all rows that name it.

    Args:
        table: The table.
        values: File and value of each row.
        what: What there may not be two of, in the plural.

    Raises:
        UserError: Two rows of a file differ.
    """
    found: dict[str, str] = {}
    others = {file: value for file, value in values if found.setdefault(file, value) != value}
    if others:
        first = next(iter(others))
        way_out = f", or leave them out with {exclude_argument(others)}" if len(others) <= MOST_NAMED else ""
        raise UserError(
            f"{table.file} gives {counted(others, 'image', 'images')} two {what}, {first!r} for example "
            f"{found[first]!r} and {others[first]!r}: keep one of the rows{way_out}"
        )
    return found
