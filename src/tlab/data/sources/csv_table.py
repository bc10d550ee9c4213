"""Index of images labeled by a CSV table, the layout of most Kaggle competitions."""

import csv
import os
from collections.abc import Iterable
from pathlib import Path

from tlab.core.errors import UserError
from tlab.core.text import few
from tlab.data.sources.folder import UNSPLIT, ImageIndex, build_index, unsplit_index
from tlab.data.sources.scan import Exclude, check_root, image_files, nfc


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
) -> ImageIndex:
    """Index the images that a table labels; other images in the folder are not used.

    Args:
        root: Folder of the data.
        labels: Path of the table relative to `root`; columns separated by commas, semicolons or tabs, named in the
            first line.
        image_column: Column of the file name below `images`, with or without extension.
        label_column: Column of the class name; rows where it is empty are not used.
        images: Folder of the images, relative to `root`.
        extension: Extension to append to a name that is not an image file; None finds it.
        val_fraction: Share of the validation split, in (0, 1); None keeps all images in one split, "all".
        test_fraction: Share of the test split, in [0, 1).
        seed: Seed of the split.
        exclude: Glob patterns, relative to `root`, of files to leave out.
        min_images: Least number of images of a class; classes with fewer are left out. None keeps all.

    Raises:
        UserError: The table or the folder cannot be used, or a labeled image is missing.
    """
    base, left_out = check_root(root), Exclude(exclude)
    table, folder = base / labels, check_root(base / images, "data.images")
    rows, blank = _read(table, image_column, label_column)
    away = Path(os.path.relpath(folder, base))
    if away.parts[:1] == ("..",):  # behind a link, `..` is not what the text says
        away = Path(os.path.relpath(folder.resolve(), base.resolve()))
    prefix = "" if folder == base else f"{away.as_posix()}/"
    available = _by_name(image_files(folder))
    label_of: dict[str, str] = {}
    missing = []
    for name, label in rows:
        file = _find(available, name, extension)
        if left_out.file(f"{prefix}{file or name}"):
            continue
        if file is None:
            missing.append(name)
        elif label_of.setdefault(file, label) != label:
            raise UserError(
                f"{table} gives {name!r} two labels, {label_of[file]!r} and {label!r}: keep one of the rows."
            )
    if missing:
        raise UserError(
            f"{table} labels images that are not in {folder}: {few(missing)}; correct data.images, "
            f"data.image_column={image_column} or data.extension={extension}, or leave them out with data.exclude."
        )
    files: dict[str, list[str]] = {}
    for file, label in label_of.items():
        files.setdefault(label, []).append(prefix + file)
    issues = [f"{blank} rows of {table} have no label and are not used."] if blank else []
    issues += left_out.issues()
    if val_fraction is None:
        return unsplit_index(base, {UNSPLIT: files}, issues)
    return build_index(base, {"train": files}, val_fraction, test_fraction, seed, issues, min_images)


def _read(table: Path, image_column: str, label_column: str) -> tuple[list[tuple[str, str]], int]:
    """Return the (image, label) rows of the table and the number of rows without a label."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as lines:
            header = lines.readline()
            delimiter = max(",;\t", key=header.count)
            lines.seek(0)
            reader = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True)
            columns = [name or "" for name in reader.fieldnames or []]
            for key, column in (("data.image_column", image_column), ("data.label_column", label_column)):
                if column not in columns:
                    raise UserError(
                        f"{key}={column} is no column of {table}, which has {', '.join(columns) or 'none'}."
                    )
            rows = [((row[image_column] or "").strip(), (row[label_column] or "").strip()) for row in reader]
    except FileNotFoundError:
        raise UserError(
            f"data.labels: there is no file {table}: name the table of labels below data.root."
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"data.labels: {table} cannot be read as a table in UTF-8 ({error}): correct or convert it."
        ) from None
    labelled = [(name, nfc(label)) for name, label in rows if name and label]
    return labelled, len(rows) - len(labelled)


def _by_name(files: Iterable[str]) -> dict[str, list[str]]:
    """Return the files under each name that a table may use for them: with and without extension."""
    names: dict[str, list[str]] = {}
    for file in files:
        for name in {nfc(file), nfc(os.path.splitext(file)[0])}:  # noqa: PTH122 - keeps the folders
            names.setdefault(name, []).append(file)
    return names


def _find(available: dict[str, list[str]], name: str, extension: str | None) -> str | None:
    name = nfc(name).replace("\\", "/").removeprefix("./")
    candidates = available.get(name, [])
    if name in candidates:
        return name
    if extension is not None:
        candidates = available.get(f"{name}.{extension.lstrip('.')}", [])
    if len(candidates) > 1:
        raise UserError(
            f"{name!r} may be {' or '.join(sorted(candidates))}: say which with data.extension=.png, for example."
        )
    return candidates[0] if candidates else None
