"""Sources of images that a model is only measured on: other folders than its own, by the names of its classes."""

import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tlab.core.errors import UserError
from tlab.core.text import counted, few
from tlab.data.sources.csv_table import csv_index
from tlab.data.sources.folder import ImageIndex, evaluation_index
from tlab.data.sources.samples import Samples
from tlab.data.sources.scan import check_root, read_folder
from tlab.data.sources.split_folders import find_splits

Source = Callable[[], ImageIndex]
TestSource = Callable[[Sequence[str]], ImageIndex]  # from the model's classes


def evaluation_source(
    source: Source,
    root: str | os.PathLike[str],
    classes: Sequence[str],
    exclude: Iterable[str] = (),
    table: Mapping[str, Any] | None = None,
    key: str = "data.root",
) -> Source:
    """Return the source of what is below another root: a folder, or a table where the model's data or keys say so.

    Args:
        source: Source of the model's own data.
        root: Another root.
        classes: The model's classes.
        exclude: Patterns of what to leave out there.
        table: Keys of the table, as far as they are other than those of the model's own.
        key: Key that gives the root, for error messages.

    Raises:
        UserError: The root is no folder, or holds neither a table nor a class folder.
    """
    base, kept = check_root(root, key), list(exclude)
    own = source.keywords if isinstance(source, partial) and source.func is csv_index else None
    if own is None and not table:
        return partial(evaluation_index, root, kept, classes)
    asked = {"root": root, "exclude": kept, "val_fraction": None, **(table or {})}
    there = partial(csv_index if own is None else source, **asked)
    labels = ((own or {}) | asked).get("labels", "labels.csv")
    if table or (not Path(labels).is_absolute() and (base / labels).is_file()):  # else its own data's
        return there
    layout = find_splits(read_folder(base), classes, any_split=True)
    if not layout.splits and not any(folder.name in classes for folder in layout.base.filled):
        raise UserError(
            f"{key}={root} has neither a table {labels}, as this run's own data have, nor a folder of one of its "
            "classes; give a folder that has, or name the table with data.labels=FILE"
        )
    return partial(evaluation_index, root, kept, classes)


def one_split(index: ImageIndex, split: str | None = None) -> ImageIndex:
    """Return the index with one split alone: other files need be neither readable nor of known classes.

    Args:
        index: The index.
        split: Name of the split, or "all" of it; None: the first there is of test, val, train, all.

    Raises:
        UserError: There is no such split.
    """
    there = index.splits
    if split == "all":
        return dataclasses.replace(index, splits={"all": Samples(itertools.chain.from_iterable(there.values()))})
    if split is not None and [*there] == ["all"]:
        raise UserError(f"split={split}: {index.root} is not split; leave split out to measure all of it")
    if split is not None and split not in there:
        raise UserError(
            f"split={split}: of {index.root} there is {', '.join(there)} with labels; give one, or split=all"
        )
    split = split or next(name for name in ("test", "val", "train", "all") if name in there)
    return dataclasses.replace(index, splits={split: there[split]})


def sources_of_tests(source: Source, roots: Mapping[str, str] | None) -> dict[str, TestSource]:
    """Return name -> function of the model's classes that returns the index of a named test folder.

    Args:
        source: Source of the model's own data.
        roots: `data.tests`: name -> folder.
    """
    return {name: partial(index_of_test, source, name, root) for name, root in (roots or {}).items()}


def without_missing(
    roots: Mapping[str, str] | None, formerly: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Return tests without those whose folder is gone since they were measured there, and the names of these.

    Args:
        roots: `data.tests`: name -> folder.
        formerly: Those that have been measured.
    """
    there = {
        name: root
        for name, root in (roots or {}).items()
        if formerly.get(name) != str(Path(root).expanduser().absolute()) or Path(root).expanduser().exists()
    }
    return there, [name for name in roots or {} if name not in there]


def fingerprints(tests: Mapping[str, TestSource], classes: Sequence[str]) -> dict[str, str]:
    """Return name -> fingerprint of the images of named test folders.

    Args:
        tests: See `sources_of_tests`.
        classes: The model's classes.

    Raises:
        UserError: A folder cannot be used.
    """
    return {name: source(classes).fingerprint() for name, source in tests.items()}


def index_of_test(source: Source, name: str, root: str, classes: Sequence[str]) -> ImageIndex:
    """Return the index of a named test folder: one split, with the model's classes, and remarks on what differs.

    Of a folder that is split it is the first there is of test, val, train. Images of other classes are left out.

    Args:
        source: Source of the model's own data.
        name: Name of the test.
        root: Folder of the test.
        classes: The model's classes, whose order decides the labels.

    Raises:
        UserError: The folder is missing, or has no image of a class of the model.
    """
    key = f"data.tests.{name}"
    index = one_split(evaluation_source(source, root, classes, key=key)())
    ((split, samples),) = index.splits.items()
    found = Counter(index.classes[sample.label] for sample in samples)
    others = {each: number for each, number in found.items() if each not in classes}
    if found.keys() == others.keys():
        raise UserError(
            f"{key}={root} has no image of a class of this run, which knows {few(classes)}, but of "
            f"{few(others) or 'none'}; give its classes the same names, or leave {key} out"
        )
    remarks = [f"{key} is {split} of {index.root}, which is split."] if split != "all" else []
    if others:
        remarks.append(
            f"{key} leaves out {counted(range(sum(others.values())), 'image', 'images')} of "
            f"{few(f'{each} ({number})' for each, number in others.items())}, no class of this run."
        )
    if missing := [each for each in classes if each not in found]:
        remarks.append(f"{key} has no image of {few(map(repr, missing))}.")
    known = Samples(sample for sample in samples if index.classes[sample.label] in classes)
    issues = (*(f"{key}: {issue}" for issue in index.issues), *remarks)
    return dataclasses.replace(index, splits={split: known}, issues=issues).with_classes(classes)
