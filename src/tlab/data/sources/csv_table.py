"""Index of images labeled by a CSV table, the layout of most Kaggle competitions."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from tlab.config.overrides import exclude_argument
from tlab.core.errors import UserError
from tlab.core.text import counted, few
from tlab.data.sources.folder import UNSPLIT, ImageIndex, build_index, unsplit_index
from tlab.data.sources.label_table import LabelTable, as_seen, read_table
from tlab.data.sources.scan import Exclude, check_root
from tlab.data.sources.splitting.division import Division
from tlab.data.sources.splitting.groups import Files
from tlab.data.sources.table_advice import few_classes, no_table, one_class_of_many, wrong_keys
from tlab.data.sources.table_columns import (
    MISSING,
    extra_columns,
    one_of_each,
    read_splits,
    table_groups,
    unused_splits,
)
from tlab.data.sources.table_images import TableImages

# Letters of other alphabets that look like Latin ones
LOOKALIKES = str.maketrans("\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u03bf", "aeopcyxijso")


def csv_index(
    root: str | os.PathLike[str],
    labels: str = "labels.csv",
    image_column: str = "id",
    label_column: str = "label",
    images: str = "images",
    extension: str | None = None,
    val_fraction: float | None = 0.2,
    test_fraction: float = 0.0,
    seed: int = 0,
    exclude: Iterable[str] = (),
    min_images: int | None = None,
    split_column: str | None = None,
    group: str | None = None,
    limit: int | float | None = None,
    folds: int | None = None,
    fold: int | None = None,
) -> ImageIndex:
    """Index the images that a table labels; other images in the folder are not used.

    Labels that differ in nothing a person would see (`label_table.as_seen`) are one class. Further columns are kept
    (`ImageIndex.columns`).

    Args:
        root: Folder of the data.
        labels: Path of the table relative to `root` (see `label_table.read_table`).
        image_column: Column of the file name, with or without extension: a path below `images`, or the last part of
            one in any subfolder (see `image_names.ImageNames`); or the path of a file elsewhere.
        label_column: Column of the class name; rows where it is empty are not used.
        images: Folder of the images, relative to `root`.
        extension: Extension to append to a name that is not an image file; None finds it.
        val_fraction: Share of the validation split, in (0, 1); None divides nothing: all images are in one split,
            "all", or in those of `split_column`, if the table has it.
        test_fraction: Share of the test split, in [0, 1).
        seed: Seed of the split.
        exclude: Glob patterns of files and folders to leave out, relative to `root`, or of class names.
        min_images: Least number of images of a class; classes with fewer are left out. None keeps all.
        split_column: Column that says train, val or test, as folders' names do (`split_folders`); rows where it is
            empty are not used. Without val rows, val is drawn from train.
        group: Column, or regular expression over paths (`groups.groups_by_pattern`), of what groups images; a group
            is drawn into one split.
        limit: See `Division`, as for `folds` and `fold`.
        folds: Number of folds.
        fold: The fold that is val.

    Raises:
        UserError: The table or the folder cannot be used, or a name in the table may be several images.
    """
    division = Division(val_fraction, test_fraction, seed, folds, fold, limit)
    base, left_out = check_root(root), Exclude(exclude, root)
    folder = Path(os.path.abspath(base / images))  # noqa: PTH100 - keeps symbolic links as typed
    try:
        table = read_table(base / labels, (image_column, label_column))
    except FileNotFoundError:
        raise UserError(no_table(base, labels, folder, image_column, label_column)) from None
    if {image_column, label_column} - {*table.columns} or not folder.is_dir():
        raise UserError(wrong_keys(base, table, folder, images, image_column, label_column))
    check_root(folder, "data.images")
    if val_fraction is not None and (sentence := one_class_of_many(base, table, image_column, label_column)):
        raise UserError(sentence)
    cells = [*zip(table.column(image_column), table.column(label_column), strict=True)]
    if swallowed := next((cell for row in cells for cell in row if _takes_rows(cell, table.delimiter)), None):
        raise UserError(
            f"{table.file} has a quote that is not closed, so that the rows after it are one cell: "
            f"{as_seen(swallowed)[:60]!r}...; remove the quote, or write two of them for one in a name"
        )
    written = [number for number, (name, label) in enumerate(cells) if name.strip() and as_seen(label)]
    issues = [
        *table.remarks([cell for number in written for cell in cells[number]]),
        *_spellings(table, (cells[number][1] for number in written)),
    ]
    if blank := len(table.rows) - len(written):
        issues.append(f"{counted(blank, 'row')} of {table.file} without a label or an image, not used.")
    seen = {label: as_seen(label) for label in {cells[number][1] for number in written}}
    unwanted = {label for label in {*seen.values()} if left_out.folder(label)}
    rows = {
        number: (cells[number][0].strip(), label)
        for number in written
        if (label := seen[cells[number][1]]) not in unwanted
    }
    split_of_row: dict[int, str] = {}
    if split_column is not None:
        names = {number: name for number, (name, _) in rows.items()}
        split_of_row, told = read_splits(table, split_column, names, val_fraction is not None)
        rows = {number: row for number, row in rows.items() if number in split_of_row} if split_of_row else rows
        issues += told

    images_of = TableImages(table, base, folder, left_out, extension)
    files, remarks = images_of.locate([name for name, _ in rows.values()], image_column)
    file_of = {number: file for number, (name, _) in rows.items() if (file := files.get(name))}
    label_of = one_of_each(table, ((file, rows[number][1]) for number, file in file_of.items()), "labels")
    if repeated := len(file_of) - len(label_of):
        issues.append(f"{counted(repeated, 'row')} of {table.file} with the image and the label of an earlier one.")
    given = ((file, split_of_row[number]) for number, file in file_of.items() if split_of_row)
    splits = one_of_each(table, given, "splits")
    found: dict[str, Files] = {"train": {}}
    for file, label in label_of.items():
        found.setdefault(splits.get(file, "train"), {}).setdefault(label, []).append(file)
    unused = {name for name in map(str.strip, table.column(image_column)) if name not in files}
    issues += [*remarks, *images_of.unlabeled(label_of, unused), *left_out.issues()]
    columns = extra_columns(table, file_of, (image_column, label_column))
    if val_fraction is None:
        there = {split: classes for split, classes in found.items() if classes}
        return replace(unsplit_index(base, there if splits else {UNSPLIT: found["train"]}, issues), columns=columns)
    by_class = {label for classes in found.values() for label in classes}
    if len(by_class) < 2:
        raise UserError(
            few_classes(table, by_class, (image_column, label_column), [*table.remarks([]), *remarks], blank)
        )
    issues += unused_splits(table, (image_column, label_column, split_column))
    group_of = None
    if group is not None:
        group_of, told = table_groups(table, group, file_of)
        issues += told
    if_cut = "data.split_column=null has all drawn by groups"
    index = build_index(base, found, division, issues, min_images, group_of, if_cut)
    return replace(index, columns=columns)


def _takes_rows(cell: str, delimiter: str) -> bool:
    """Tell whether a cell holds whole rows, as after a quote that is not closed."""
    return delimiter in cell and re.search(r"[\r\n]", cell.strip()) is not None


def _is_several(label: str, labels: Collection[str]) -> bool:
    """Tell whether a cell names several classes: `a|b`, `['a', 'b']`, or other labels with a separator between."""
    apart = ([part.strip() for part in label.split(mark)] for mark in (",", ";", "/", "+", " "))
    return (
        "|" in label
        or re.match(r"""\[.*[,'"].*\]""", label) is not None
        or any(len(p) > 1 and all(map(labels.__contains__, p)) for p in apart)
    )


def _spellings(table: LabelTable, labels: Iterable[str]) -> Iterator[str]:
    """Yield a sentence on labels that look the same and are one class, and one on classes that differ in little."""
    spellings: dict[str, set[str]] = defaultdict(set)
    for label in {*labels}:
        spellings[as_seen(label)].add(label)
    if joined := {label: ways for label, ways in spellings.items() if len(ways) > 1}:
        yield (
            f"{sum(map(len, joined.values()))} spellings in {table.file} differ in blanks or in what nobody sees, "
            f"and are {counted(joined, 'class', 'classes')}: {few(map(repr, sorted(joined)))}."
        )
    near: dict[str, list[str]] = defaultdict(list)
    for label in sorted(spellings):
        number = re.fullmatch(r"-?\d{1,15}(\.\d*)?", label)
        near[str(float(label)) if number else label.casefold().translate(LOOKALIKES)].append(label)
    if missing := [label for label in sorted(spellings) if label.casefold() in MISSING]:
        yield (
            f"{few(map(repr, missing))} of {table.file} {'is a class' if len(missing) == 1 else 'are classes'}, "
            f"though that may stand for no label: {exclude_argument(missing)} leaves out such images."
        )
    if several := [label for label in sorted(spellings) if _is_several(label, spellings)]:
        one = len(several) == 1
        yield (
            f"{few(map(repr, several))} of {table.file} {'looks' if one else 'look'} like several labels, and "
            f"{'is a class of its own' if one else 'are classes of their own'}."
        )
    if pairs := [" and ".join(map(repr, names)) for names in near.values() if len(names) > 1]:
        yield (
            f"Classes of {table.file} differ in case alone, in how a number is written, or in letters of other "
            f"alphabets that look the same: {few(pairs)}."
        )
