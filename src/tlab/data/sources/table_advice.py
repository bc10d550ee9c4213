"""What to say of a table whose images are not found, and which one could be made: keys with their values."""

import difflib
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath

from tlab.config.overrides import shell_argument
from tlab.core.errors import UserError
from tlab.core.text import counted, few, shell_command, shell_word
from tlab.data.sources.image_names import ImageNames
from tlab.data.sources.label_table import LabelTable, read_table
from tlab.data.sources.scan import image_extensions, image_files

# Usual names of a column of classes
LABELS = ("label", "labels", "class", "class_name", "category", "target", "species", "breed", "dx", "diagnosis")
# Cells of a column for one class, in lower case
NO, YES = ("", "0", "0.0", "0.00", "false", "no", "n"), ("1", "1.0", "1.00", "true", "yes", "y", "x")
FLAGS = {**dict.fromkeys(NO, 0), **dict.fromkeys(YES, 1)}
TABLE = re.compile(r"\.(csv|tsv|txt)(\.gz|\.zip)?$", re.IGNORECASE)
NUMBERED_NAME = r"(.*?[^\W\d_]\W*?)[\W_]*\d+\W*"  # a class, then the number of the image: `cat.0`
MOST_LISTED = 20  # columns
MOST_TRIED = 200  # rows that are looked up to tell what other keys would find
MOST_COMPARED = 10_000  # names among which the nearest is sought


def no_table(base: Path, labels: str, folder: Path, image_column: str, label_column: str) -> str:
    """Return the sentence on a table that is not there, with the arguments that name the one that is likely meant.

    Beside the labels a competition hands out tables of ids alone, and samples whose labels are all the same.
    """
    what = f"data.labels: there is no file {base / labels}, a path relative to data.root"
    there = sorted(each.name for each in base.iterdir() if TABLE.search(each.name))
    tables = {}
    for name in there:
        with suppress(UserError, OSError):
            tables[name] = read_table(base / name, (image_column, label_column))

    def likelihood(name: str) -> tuple[int, float]:
        columns = _columns_of_classes(tables[name]) if name in tables else []
        named = any(column == label_column or column.lower() in LABELS for column in columns)
        return named + bool(columns), difflib.SequenceMatcher(None, name, labels).ratio()

    if not there:
        return f"{what}: name the table of labels"
    arguments = {"data.labels": max(there, key=likelihood)}
    if (table := tables.get(arguments["data.labels"])) is not None:
        names = ImageNames(folder, image_files(folder) if folder.is_dir() else [])
        keys, column = _better_keys(base, table, names, image_column)
        arguments |= keys | _key_of_labels(table, column or image_column, label_column)
    return f"{what}: give {' '.join(shell_argument(key, value) for key, value in arguments.items())}"


def wrong_keys(
    base: Path, table: LabelTable, folder: Path, images: str, image_column: str, label_column: str
) -> str:
    """Return the sentence on columns or a folder that are not there, with the arguments that name others."""
    here = few(table.columns, MOST_LISTED) or "none"
    wrong = [
        f"{key}={column} is no column of {table.file}, which has {here}"
        for key, column in (("data.image_column", image_column), ("data.label_column", label_column))
        if column not in table.columns
    ]
    if not folder.is_dir():
        wrong.append(f"data.images={images} {'is a file' if folder.exists() else 'does not exist'} ({folder})")
    names = ImageNames(folder, image_files(folder) if folder.is_dir() else [])
    tried = first_cells(table)
    if found := [name for name in names.match_all(table.columns) if names.match_all(tried[name])]:
        others = iter([label_column, *(f"column{number}" for number in range(3, 2 + len(table.columns)))])
        header = [image_column if name == found[0] else next(others) for name in table.columns]
        command = f"sed -i {shell_word(f'1i {table.delimiter.join(header)}')} {shell_word(str(table.file))}"
        return f"The first line of {table.file} names no columns, but holds {here}: add one with {command}"
    arguments, column = _better_keys(base, table, names, image_column)
    if label_column not in table.columns and (classes := _one_hot(table)):
        return _one_label(base, table, classes, column or image_column, image_column, label_column, arguments)
    if not column and not any(map(_may_be_names, tried.values())):
        no_names = "its cells are no names of images" if table.rows else "it has no rows"
        return f"{'; '.join(wrong)}; {no_names}: give a table with a row for each image file"
    arguments |= _key_of_labels(table, column or image_column, label_column)
    way_out = " ".join(shell_argument(key, value) for key, value in arguments.items()) or "the right ones"
    return f"{'; '.join(wrong)}: give {way_out}"


def one_class_of_many(base: Path, table: LabelTable, image_column: str, label_column: str) -> str | None:
    """Return the sentence on a label column that is only one of the columns for a class each; None if it is not."""
    classes = _one_hot(table)
    if label_column not in classes or len(classes) < 3:  # of two, one says all
        return None
    return _one_label(base, table, classes, image_column, image_column, "label", {"data.label_column": "label"})


def few_classes(
    table: LabelTable, classes: Collection[str], used: Sequence[str], remarks: Sequence[str], blank: int
) -> str:
    """Return the sentence on a table of one class or none: what was not found, or another column of classes."""
    what = f"only one class ({next(iter(classes))!r})" if classes else "no class"
    empty = f" ({counted(blank, 'row')} without a label or an image)" if blank else ""
    other = _label_column(table, used)
    reason = " ".join(remarks) or (f"give {shell_argument('data.label_column', other)}" if other else "add rows")
    return f"{table.file} has images of {what}, but a classifier needs two classes{empty}: {reason}"


def _one_hot(table: LabelTable) -> list[str]:
    """Return the columns that are a class each, with one 1 in each row; none if a column is named as labels are."""
    cells = {name: [cell.strip().lower() for cell in table.column(name)] for name in table.columns}
    flags = [name for name, each in cells.items() if {*each} <= FLAGS.keys() and any(each)]
    of_row = zip(*(cells[name] for name in flags), strict=True)
    one = all(sum(map(FLAGS.__getitem__, row)) == 1 for row in of_row)
    named = {*map(str.lower, table.columns)} & {*LABELS}
    return flags if 1 < len(flags) < len(table.columns) and one and not named else []


def _one_label(
    base: Path,
    table: LabelTable,
    classes: Sequence[str],
    column: str,
    image_column: str,
    label_column: str,
    arguments: Mapping[str, str],
) -> str:
    """Return the sentence on such columns, with the command that writes a table of one column of labels."""
    image = next(name for name in (column, *table.columns) if name in table.columns and name not in classes)
    places = [table.columns.index(name) for name in classes]
    new = table.file.with_name(f"{table.file.name.partition('.')[0]}_one_column.csv")
    old, encoding, delimiter, out, *names = map(
        json.dumps, (str(table.file), table.encoding, table.delimiter, str(new), image_column, label_column)
    )
    code = (
        f'import csv; rows = csv.reader(open({old}, newline="", encoding={encoding}), '
        f"delimiter={delimiter}, skipinitialspace=True); head = next(rows); "
        f'csv.writer(open({out}, "w", newline="", encoding="utf-8")).writerows('
        f"[[{', '.join(names)}]] + [[row[{table.columns.index(image)}], head[i].strip()] "
        f"for row in rows for i in {places} if row and row[i].strip().lower() in {json.dumps(YES)}])"
    )
    given = {key: value for key, value in arguments.items() if key != "data.image_column"}
    given["data.labels"] = os.path.relpath(new, base)
    way_out = " ".join(shell_argument(key, value) for key, value in given.items())
    return (
        f"{table.file} has a column for each class ({few(classes)}), and no data.label_column={label_column}: "
        f"write a table with one by python -c {shell_word(code)} and give {way_out}"
    )


def _label_column(table: LabelTable, used: Sequence[str]) -> str | None:
    """Return the column, other than the used ones, that most likely holds the classes."""
    others = [name for name in table.columns if name not in used]
    several = [name for name in _columns_of_classes(table) if name in others]
    known = [name for label in LABELS for name in several if name.lower() == label]
    return next(iter(known + several + others), None)


def _columns_of_classes(table: LabelTable) -> list[str]:
    """Return the columns whose values come again, while there are several."""
    return [name for name in table.columns if 1 < len({*table.column(name)}) <= len(table.rows) / 2]


def first_cells(table: LabelTable) -> dict[str, list[str]]:
    """Return the first cells of each column, without empty ones."""
    return {name: [*filter(None, map(str.strip, table.column(name)[:MOST_TRIED]))] for name in table.columns}


def _better_keys(base: Path, table: LabelTable, names: ImageNames, image_column: str) -> tuple[dict[str, str], str]:
    """Return the keys, and the column, with which most of the first rows are found; no keys where none is."""
    columns = sorted(table.columns, key=lambda name: name != image_column)  # that one where others find no more
    tried = first_cells(table)
    places = [names] if names.folder == base else [names, ImageNames(base, image_files(base))]
    found = [(len(place.match_all(tried[name])), place, name) for place in places for name in columns]
    count, place, column = max(found, key=lambda each: each[0], default=(0, names, image_column))
    arguments = {}
    if count and column != image_column:
        arguments["data.image_column"] = column
    if count and place is not names:
        every = place.match_all(cell.strip() for cell in table.column(column))
        common = os.path.commonpath([f"./{match.files[0].rpartition('/')[0]}" for match in every.values()])
        arguments["data.images"] = Path(common).as_posix()
    return arguments, column if count else ""


def _key_of_labels(table: LabelTable, image_column: str, label_column: str) -> dict[str, str]:
    """Return the key that names a column of labels, if `label_column` is none."""
    label = None if label_column in table.columns else _label_column(table, (image_column,))
    return {"data.label_column": label} if label else {}


def _may_be_names(cells: Sequence[str]) -> bool:
    """Tell whether cells may name images: one has an image's extension, or all differ and none is a measurement."""
    if any(PurePath(cell).suffix.lower() in image_extensions() for cell in cells):
        return True
    return len({*cells}) == len(cells) > 1 and not any(re.fullmatch(r"-?\d*\.\d*[1-9]\d*", cell) for cell in cells)


def nothing_found(
    base: Path, table: LabelTable, names: ImageNames, image_column: str, missing: Sequence[str]
) -> str:
    """Return the sentence on a table of which no image is found."""
    what = f"None of the {counted(missing, 'image')} that {table.file} names is in {names.folder}"
    if arguments := _better_keys(base, table, names, image_column)[0]:
        way_out = " ".join(shell_argument(key, value) for key, value in arguments.items())
        return f"{what} ({few(missing)}): give {way_out}"
    if not names.files:
        return f"{what}, which holds no image file: give another data.images, a folder relative to data.root."
    last = {file.rpartition("/")[2]: file for file in names.files}
    short = {Path(each).stem.lstrip("0") or "0": each for each in last}
    number = missing[0].removesuffix(".0")
    if number.isdigit() and number in short:
        return f"{what}: the table has {missing[0]} for {short[number]}, save its column {image_column} as text."
    nearest = difflib.get_close_matches(missing[0], [*last][:MOST_COMPARED], n=1, cutoff=0)[0]
    return (
        f"{what}: {missing[0]!r} is not there, {last[nearest]!r} comes nearest; correct data.images, "
        f"data.image_column={image_column} or the table."
    )


def table_of_names(place: str, files: Sequence[str]) -> str | None:
    """Return the arguments that train on the classes in files' names, after the command that writes their table.

    It is written into the working directory, since the folder of the images may be read-only.
    None where no names tell classes. They do if most of them are one of several followed by a number, and each
    comes twice on average.

    Args:
        place: Absolute path of the folder.
        files: Names of the images in it.
    """
    found = [match[1] for file in files if (match := re.fullmatch(NUMBERED_NAME, PurePath(file).stem))]
    classes = sorted({*found})
    if not 1 < len(classes) <= len(found) / 2 or len(found) < len(files) / 2:
        return None
    folder, endings = json.dumps(place, ensure_ascii=False), sorted({PurePath(file).suffix for file in files})
    table = str(Path.cwd() / f"labels_of_{PurePath(place).name}.csv")
    code = (
        f"import csv, pathlib, re; d = pathlib.Path({folder}); "
        f'w = csv.writer(open({json.dumps(table, ensure_ascii=False)}, "w", newline="", encoding="utf-8")); '
        f'w.writerow(["id", "label"]); '
        f"w.writerows([f.name, m[1]] for f in sorted(d.iterdir()) if f.suffix in {json.dumps(endings)} "
        f'and f.name[0] != "." and (m := re.fullmatch(r"{NUMBERED_NAME}", f.stem)))'
    )
    given = {"data.root": place, "data.labels": table, "data.images": "."}
    arguments = " ".join(shell_argument(key, value) for key, value in given.items())
    return (
        f"if their names tell the classes ({few(classes)}), give data=csv {arguments} after "
        f"{shell_command(['python', '-c', code])}"
    )
