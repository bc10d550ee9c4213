"""Index of image files by class and split, read from class folders."""

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from tlab.config.overrides import exclude_argument
from tlab.config.validation import check_value
from tlab.core.errors import UserError
from tlab.core.files import file_signature
from tlab.core.text import counted, few
from tlab.data.sources.scan import Exclude, check_root, image_files, in_order, nfc, subfolders
from tlab.data.sources.split import check_fractions, split_classes

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
UNSPLIT = "all"  # name of the only split of data that are evaluated unsplit

Files = dict[str, list[str]]  # class name -> POSIX paths relative to the root


class Sample(NamedTuple):
    """One image file: its absolute path, and its label as an index into the classes."""

    file: str  # a `Path` for each of very many files takes seconds and hundreds of megabytes
    label: int

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.file)


@dataclass(frozen=True)
class ImageIndex:
    """All image files of a dataset, before any is opened.

    Attributes:
        root: Absolute path of the data.
        classes: Class names, sorted; a label is a position here.
        splits: Name -> samples, sorted by class, then by path: "train", "val", and maybe "test"; of data that are
            only evaluated, those that exist, or "all".
        issues: Sentences about files that were left out.
    """

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, tuple[Sample, ...]]
    issues: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Return a hex digest of the relative paths, labels, sizes and modification times of every split."""
        digest = blake2b("\n".join(self.classes).encode("utf-8", "surrogateescape"), digest_size=16)
        for split, samples in sorted(self.splits.items()):
            digest.update(f"\n\n{split}".encode())
            prefix = f"{self.root}/"
            for file, label in samples:
                digest.update(b"\n" + file_signature(file, f"{file.removeprefix(prefix)}\0{label}"))
        return digest.hexdigest()

    def relative(self, path: Path) -> str:
        """Return `path` relative to the root where it lies below it, with forward slashes."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.as_posix()

    def without(self, paths: Collection[Path]) -> "ImageIndex":
        """Return the index without these files.

        Raises:
            UserError: There are train and val, and a class has no image left in train, or val has none at all.
        """
        if not paths:
            return self
        gone = set(map(str, paths))
        kept = {split: tuple(s for s in samples if s.file not in gone) for split, samples in self.splits.items()}
        issues = []
        for split in kept if {"train", "val"} <= kept.keys() else ():
            had, has = ({sample.label for sample in splits[split]} for splits in (self.splits, kept))
            empty = [self.classes[label] for label in sorted(had - has)]
            if empty and (split == "train" or (split == "val" and not has)):
                raise UserError(
                    f"No readable image is left in {split} for {few(map(repr, empty))} below {self.root}: mend the "
                    "files listed as unreadable, add images, or leave out what is empty with "
                    f"{exclude_argument(empty)}."
                )
            if empty:
                issues.append(f"No readable image is left in {split} for {few(map(repr, empty))}.")
        splits = {split: samples for split, samples in kept.items() if samples}
        return replace(self, splits=splits, issues=(*self.issues, *issues))


def folder_index(
    root: str | os.PathLike[str],
    val_fraction: float = 0.2,
    test_fraction: float = 0.0,
    seed: int = 0,
    exclude: Iterable[str] = (),
    min_images: int | None = None,
) -> ImageIndex:
    """Index a folder of class folders.

    Two layouts: `root/{train,val,test}/<class>/**`, where val may also be called valid or validation, in upper or
    lower case; or `root/<class>/**`. A missing val or test is split off train (see `split.split_class`). A test
    folder without class folders has no labels and is not used.

    Args:
        root: Folder of the data.
        val_fraction: Share of the validation split, in (0, 1).
        test_fraction: Share of the test split, in [0, 1).
        seed: Seed of the split.
        exclude: Glob patterns of files and folders to leave out, relative to `root`, or of class names
            (`scan.Exclude`).
        min_images: Least number of images of a class below train; classes with fewer are left out. None keeps all.

    Raises:
        UserError: The folder, a class or a fraction cannot be used.
    """
    base, left_out = check_root(root), Exclude(exclude)
    folders = _split_folders(base, left_out) or {"train": ""}
    if "train" not in folders:
        raise UserError(
            f"{base} has a folder {next(iter(folders.values()))!r} but no 'train': add train/<class>/, "
            "or rename that folder if it is a class."
        )
    issues = []
    found = {split: _class_files(base, name, left_out) for split, name in folders.items()}
    if "test" in found and not found["test"]:
        del found["test"]
        issues.append(f"{base / folders['test']} has no class folders, so it is not used as a test split.")
    for split, files in found.items():
        _check_files(base, folders[split], files)
    issues += left_out.issues()
    return build_index(base, found, val_fraction, test_fraction, seed, issues, min_images)


def evaluation_index(root: str | os.PathLike[str], exclude: Iterable[str] = ()) -> ImageIndex:
    """Index a folder of class folders for evaluation only.

    The layouts are those of `folder_index`, but nothing is split off, and any split or class may be missing.
    Without split folders all images are in one split, "all".

    Args:
        root: Folder of the data.
        exclude: Glob patterns, relative to `root`, of files to leave out (`scan.Exclude`).

    Raises:
        UserError: There is no class folder with an image.
    """
    base, left_out = check_root(root), Exclude(exclude)
    folders = _split_folders(base, left_out) or {UNSPLIT: ""}
    found = {split: _class_files(base, name, left_out) for split, name in folders.items()}
    labelled = {split: files for split, files in found.items() if any(files.values())}
    if not labelled:
        for split, files in found.items():
            _check_files(base, folders[split], files)
    issues = _left_aside(base, folders, found, left_out)
    return unsplit_index(base, labelled, (*issues, *left_out.issues()))


def unsplit_index(root: Path, found: Mapping[str, Files], issues: Iterable[str]) -> ImageIndex:
    """Build an index of the given splits as they are, with the classes found in any of them.

    Args:
        root: Absolute path of the data.
        found: Split name -> class name -> POSIX paths relative to `root`, or absolute.
        issues: Sentences to keep with the index.
    """
    classes = tuple(sorted({name for files in found.values() for name, paths in files.items() if paths}))
    splits = {
        split: tuple(
            Sample(name if name.startswith("/") else f"{root}/{name}", label)
            for label, c in enumerate(classes)
            for name in in_order(found[split].get(c, ()))
        )
        for split in ("train", "val", "test", UNSPLIT)
        if split in found
    }
    return ImageIndex(root, classes, splits, tuple(issues))


def build_index(
    root: Path,
    found: Mapping[str, Files],
    val_fraction: float,
    test_fraction: float,
    seed: int,
    issues: Iterable[str],
    min_images: int | None = None,
) -> ImageIndex:
    """Build an index: leave out rare classes, split off what is missing, and check the classes of the splits.

    Args:
        root: Absolute path of the data.
        found: Split name -> class name -> POSIX paths relative to `root`; "train" is required.
        val_fraction: Share of the validation split, if `found` has no "val".
        test_fraction: Share of the test split, if `found` has no "test".
        seed: Seed of the split.
        issues: Sentences to keep with the index.
        min_images: Least number of images of a class in train, before anything is split off; None keeps all.
    """
    check_value("data.min_images", min_images)
    rare = {name: files for name, files in found["train"].items() if len(files) < (min_images or 0)}
    splits = {split: {c: files[c] for c in files if c not in rare} for split, files in found.items()}
    train, remarks = splits["train"], [*issues]
    if rare:
        remarks.append(
            f"data.min_images={min_images} leaves out {counted(rare, 'class', 'classes')} of fewer images: "
            f"{_sizes(rare)}."
        )
    if len(train) < 2:
        only = f"only one class ({next(iter(train))!r})" if train else "no class"
        kept = f" of at least data.min_images={min_images} images" if rare else ""
        raise UserError(f"{root} holds {only}{kept}: a classifier needs images of at least two classes.")
    val = None if "val" in found else val_fraction
    test = None if "test" in found else test_fraction
    check_fractions(val, test)
    if val or test:
        parts = split_classes(train, val, test, seed)
        splits |= parts
        if lone := {name: files for name, files in train.items() if len(files) < len(parts)}:
            remarks.append(
                f"{counted(lone, 'class has', 'classes have')} too few images to be split into "
                f"{' and '.join(parts)}, so all of them are trained on and none is measured: {_sizes(lone)}; "
                f"data.min_images={len(parts)} leaves such classes out."
            )
    for split in ("val", "test"):
        given = found.get(split, {}).keys() - rare
        if alone := sorted(given - train.keys()):
            raise UserError(
                f"{few(map(repr, alone))} is a class in {split} but not in train (below {root}): add train images, "
                f"correct the folder's name, or leave it out with {exclude_argument(alone)}."
            )
        if split in found and (missing := sorted(train.keys() - given)):
            way_out = f"; {exclude_argument(missing)} leaves out what has none" if len(missing) <= 10 else ""
            remarks.append(f"The {split} split has no image of {few(map(repr, missing))}{way_out}.")
    return unsplit_index(root, splits, remarks)


def _sizes(classes: Files) -> str:
    return few(f"{name} ({len(files)})" for name, files in classes.items())


def _split_folders(root: Path, exclude: Exclude) -> dict[str, str]:
    """Return split -> folder name for the layout with split folders, else {}."""
    found: dict[str, str] = {}
    for name in subfolders(root):
        split = SPLIT_NAMES.get(name.lower())
        if split is None or exclude.folder(name):
            continue
        if split in found:
            raise UserError(
                f"{root} has two folders for {split}, {found[split]!r} and {name!r}: keep or exclude one."
            )
        found[split] = name
    return found


def _class_files(root: Path, folder: str, exclude: Exclude) -> Files:
    """Return class name -> image files in one split's folder, or in the root (`folder=""`)."""
    classes: Files = {}
    for name in subfolders(root / folder):
        below = f"{folder}/{name}".lstrip("/")
        if not (exclude.folder(below) or exclude.folder(name)):  # as a folder, or as a class of any split
            files = (f"{below}/{file}" for file in image_files(root / below, below, exclude))
            classes.setdefault(nfc(name), []).extend(files)
    return classes


def _check_files(root: Path, folder: str, classes: Files) -> None:
    """Raise a `UserError` if a split's folder or the root has no class folders, or an empty one."""
    base = root / folder
    if not classes:
        loose = " its images lie side by side, not in class folders;" if image_files(base, deep=False) else ""
        raise UserError(
            f"{base} has no class folders:{loose} give a folder with one folder of images for each class."
        )
    if empty := [f"{folder}/{name}".lstrip("/") for name, files in classes.items() if not files]:
        raise UserError(
            f"{few(repr(name + '/') for name in empty)} below data.root={root} holds no file with an image's "
            f"extension: add images, remove the folder, or leave it out with data.exclude=[{empty[0]}]."
        )


def _left_aside(root: Path, folders: Mapping[str, str], found: Mapping[str, Files], exclude: Exclude) -> list[str]:
    """Return sentences about the folders and image files below the root that are in no class of any split."""
    here = [] if "" in folders.values() else subfolders(root)
    loose = {place: image_files(root / place, place, exclude, False) for place in ("", *folders.values())}
    names = {
        "without class folders": [folders[split] for split, files in found.items() if not files],
        "without an image": [
            f"{folders[split]}/{c}" for split in found for c in found[split] if not found[split][c]
        ],
        "beside the split folders": [c for c in here if c not in folders.values() and not exclude.folder(c)],
        "in no class folder": [f"{place}/{file}" for place, files in loose.items() for file in files],
    }
    return [
        f"Not measured below {root}, since {why}: {few(name.lstrip('/') for name in aside)}."
        for why, aside in names.items()
        if aside
    ]
