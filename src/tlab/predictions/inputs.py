"""What `input=` stands for: a file, a folder, a pattern, a table, paths on standard input, or a list of these."""

import glob
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tlab.config.overrides import shell_argument
from tlab.core.errors import UserError
from tlab.core.files import is_device_or_pipe
from tlab.core.text import counted, few, shell_word
from tlab.data.sources.label_table import BYTE_ORDER_MARKS, LabelTable, read_table
from tlab.data.sources.scan import (
    PICTURES,
    Exclude,
    extensions,
    image_extensions,
    image_files,
    images_to_predict,
    in_order,
)
from tlab.data.sources.table_images import TableImages
from tlab.predictions.file_list import FileList

log = logging.getLogger(__name__)

# Extensions of tables, also of those that have to be saved as CSV first
TABLES = frozenset(
    {".csv", ".tsv", ".txt", ".xls", ".xlsx", ".parquet", ".json", ".jsonl", ".ndjson", ".gz", ".zip"}
)
STANDARD_INPUT = "-"


def find_files(given: Any, data: Mapping[str, Any], for_ids: bool = False) -> FileList:
    """Return the files to predict, in order; a list or a table may name one twice, or one that does not exist.

    Args:
        given: The value of `input`.
        data: The keys below `data`: `exclude`, `images`, `image_column`, `extension`.
        for_ids: Whether the ids of a submission are sought among them.

    Raises:
        UserError: Something of it does not exist or holds no image, or a key is for something else.
    """
    texts = [str(given)] if isinstance(given, str | os.PathLike) else list(map(str, given))
    if not texts:
        raise UserError("input=[] names nothing; give an image file, or a folder of images")
    of_tables = ("images",) if for_ids else ("images", "image_column", "extension")
    unused_keys = [key for key in of_tables if data.get(key) is not None]
    if unused_keys and not any(map(_is_table, texts)):
        raise UserError(f"data.{unused_keys[0]} is for a table, such as input=test.csv; leave it out")
    found, left_out = zip(*(_files_of(text, data) for text in texts), strict=True)
    unused = [set(exclude.issues()) for exclude in left_out]
    for sentence in sorted(set.intersection(*unused)):
        log.warning(sentence)
    files = found[0]
    if len(found) > 1:
        here = Path.cwd()
        files = FileList(here, (_below(path, here) for each in found for path in each))
    if not len(files):
        raise UserError(f"input={few(texts)} names no image that is not in data.exclude; give other images")
    return files


def _files_of(text: str, data: Mapping[str, Any]) -> tuple[FileList, Exclude]:
    path = Path(text)
    if text == STANDARD_INPUT:
        return _listed(data)
    if path.is_dir():
        exclude = _exclude(data, path.absolute())
        return FileList(path.absolute(), images_to_predict(path.absolute(), "input=", exclude)), exclude
    if not path.exists() and re.search(r"[*?[]", text):
        return _matching(text, data)
    if not path.exists():
        raise UserError(f"input={text} does not exist; give an image file, or a folder of images")
    if is_device_or_pipe(path):
        raise UserError(
            f"input={text} is a pipe or device, not a file; save what it gives as a file, and give that as "
            "input, or give input=- to read paths of files from standard input"
        )
    if _is_table(text):
        return _of_table(path.absolute(), data)
    exclude = _exclude(data, path.absolute().parent)
    return _without(path.absolute().parent, [path.name], exclude)


def _is_table(text: str) -> bool:
    return Path(text).suffix.lower() in TABLES and Path(text).is_file()


def _exclude(data: Mapping[str, Any], root: Path) -> Exclude:
    return Exclude(data.get("exclude") or (), root)


def _without(root: Path, names: Iterable[str], exclude: Exclude) -> tuple[FileList, Exclude]:
    kept = (name for name in names if not exclude.file(name)) if exclude.patterns else names
    return FileList(root, kept), exclude


def _below(path: str, root: Path) -> str:
    return path.removeprefix(f"{root}/")


def _matching(pattern: str, data: Mapping[str, Any]) -> tuple[FileList, Exclude]:
    """Return the images that a glob pattern names, and those in the folders that it names."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if re.search(r"[*?[]", part))
    root = Path(*parts[:fixed]).absolute()
    taken, others, names = image_extensions() | PICTURES, Counter[str](), []
    # pathlib's ** finds no files
    for name in glob.iglob("/".join(parts[fixed:]), root_dir=root, recursive=True):  # noqa: PTH207
        extension = Path(name).suffix.lower()
        if (root / name).is_dir():
            if "**" not in parts and name:  # else the pattern names what is in it, too
                names += [f"{name}/{each}" for each in image_files(root / name)]
        elif extension in taken:
            names.append(name)
        else:
            others[extension] += 1
    if others:
        log.warning("Not images by their extensions among %s: %s", pattern, extensions(others))
    if not names:
        raise UserError(f"input={pattern} names no image file; give another pattern, or a folder of images")
    return _without(root, in_order(list(dict.fromkeys(names))), _exclude(data, root))


def _listed(data: Mapping[str, Any]) -> tuple[FileList, Exclude]:
    """Return the files whose paths standard input holds, one a line or with NUL between them."""
    content = sys.stdin.buffer.read()
    for mark, encoding in BYTE_ORDER_MARKS.items():  # as a file saved on Windows has
        if content.startswith(mark):
            content = content.decode(encoding, "replace").encode()
    lines = (line.removesuffix(b"\r") for line in content.split(b"\n"))
    pieces = content.split(b"\0") if b"\0" in content else lines
    folders: list[str] = []
    here = Path.cwd()

    def names() -> Iterator[str]:
        for piece in pieces:
            name = os.fsdecode(piece)
            if name.strip() and os.path.isdir(name):  # noqa: PTH112 - Path is slow here
                folders.append(name)
            elif name.strip():
                yield _below(os.path.normpath(here / name), here)

    files, exclude = _without(here, names(), _exclude(data, here))
    if folders:
        log.warning("%s in the list, not looked into: %s", counted(folders, "folder"), few(folders))
    if not len(files):
        raise UserError("input=- finds no path of a file on standard input; write one a line, as find -type f does")
    if not any(map(os.path.exists, files)):
        raise UserError(
            f"input=- names {counted(len(files), 'file')}, of which none exists ({files.name(0)} is the first); "
            f"give paths relative to {here}, or absolute ones"
        )
    return files, exclude


def _of_table(file: Path, data: Mapping[str, Any]) -> tuple[FileList, Exclude]:
    """Return the images that the rows of a table name, in their order; a name without one stays as it is."""
    base, given = file.parent, data.get("image_column")
    table = read_table(file, [given] if given else [], "input")
    if not table.columns:
        raise UserError(f"input={file} is empty; give a table whose first line names its columns")
    folder = Path(os.path.normpath(base / (data.get("images") or "")))
    if not folder.is_dir():
        raise UserError(
            f"data.images={data['images']} is no folder ({folder}); give one relative to {base}, or leave it out"
        )
    exclude = Exclude(data.get("exclude") or (), base)
    images = TableImages(table, base, folder, exclude, data.get("extension"))
    column = column_of(table, images, given)
    names = [*filter(None, map(str.strip, table.column(column)))]
    if not names:
        raise UserError(f"input={file} names no image in its column {column}; give data.image_column=COLUMN")
    found, missing, remarks = images.find(names)
    if missing and not found:
        raise UserError(images.none_found(column, missing))
    for sentence in remarks:
        log.warning(sentence)
    if empty := len(table.rows) - len(names):
        log.warning("%s of %s without an image, which get no row", counted(empty, "row"), file)
    found |= {name: str(folder / name) for name in missing}  # each gets a row that says so
    rows = (_below(os.path.normpath(base / found[name]), base) for name in names if name in found)
    return FileList(base, rows), exclude


def column_of(table: LabelTable, images: TableImages, given: str | None) -> str:
    """Return the column that names the images: the given one, else the one whose cells are found.

    Raises:
        UserError: There is no such column, or the first line is no header, but names an image.
    """
    if given and given not in table.columns:
        likely = shell_argument("data.image_column", images.column_of_images())
        raise UserError(
            f"data.image_column={given} is no column of {table.file}, which has {', '.join(table.columns)}; give "
            f"{likely}"
        )
    column = given or images.column_of_images()
    if re.search(r"\d|\.\w+$", column) and images.knows(column):
        raise UserError(
            f"The first line of {table.file} names no columns, but the image {column}: add a line that does with "
            f"sed -i {shell_word('1i ' + table.delimiter.join(['id', *table.columns[1:]]))} "
            f"{shell_word(str(table.file))}"
        )
    return column
