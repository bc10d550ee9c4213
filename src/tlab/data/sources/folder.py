"""Index of image files by class and split, read from class folders."""

import difflib
import glob
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from tlab.config.overrides import exclude_argument, shell_argument
from tlab.config.validation import check_value
from tlab.core.errors import UserError
from tlab.core.files import file_signature
from tlab.core.text import as_text, counted, few, shell_command, shell_word
from tlab.data.sources.samples import Sample, Samples
from tlab.data.sources.scan import (
    Exclude,
    Folder,
    check_root,
    extensions,
    folded,
    in_class_order,
    in_order,
    read_folder,
    with_decoder,
)
from tlab.data.sources.split_folders import Layout, find_splits, is_plain, split_of
from tlab.data.sources.splitting.division import Division, divide
from tlab.data.sources.splitting.groups import Files, GroupOf, groups_by_pattern
from tlab.data.sources.table_advice import table_of_names
from tlab.data.sources.table_columns import ExtraColumns

_MASKS = re.compile(
    r"(.*[ _-])?(masks?|segmentations?|annotations?|annots?|ground[ _-]?truths?|gt|labels?)([ _-].*)?"
)
UNSPLIT = "all"  # name of the only split of data that are evaluated unsplit


@dataclass(frozen=True)
class ImageIndex:
    """All image files of a dataset, before any is opened.

    Attributes:
        root: Absolute path of the data.
        classes: Class names, numbers in them by value; a label is a position here.
        splits: Name -> samples, sorted by class, then by path: "train", "val", and maybe "test"; of data that are
            only evaluated, those that exist, or "all".
        issues: Sentences about files that were left out.
        columns: What a table says of the images besides their labels; None without a table.
    """

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, Samples]
    issues: tuple[str, ...] = ()
    columns: ExtraColumns | None = field(default=None, compare=False)

    def fingerprint(self) -> str:
        """Return a hex digest of the relative paths, labels, sizes and modification times of every split."""
        digest = blake2b("\n".join(self.classes).encode("utf-8", "surrogateescape"), digest_size=16)
        for split, samples in sorted(self.splits.items()):
            digest.update(f"\n\n{split}".encode())
            prefix = f"{self.root}/"
            for file, label in samples:
                name = f"{file.removeprefix(prefix)}\0{label}"
                try:
                    digest.update(b"\n" + file_signature(file, name))
                except OSError:  # gone, or behind a broken link; it will be skipped
                    digest.update(b"\n" + os.fsencode(name))
        return digest.hexdigest()

    def relative(self, path: Path) -> str:
        """Return `path` as text, relative to the root where it lies below it, with forward slashes."""
        return as_text((path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix())

    def with_classes(self, classes: Sequence[str]) -> "ImageIndex":
        """Return the index with labels that are positions in `classes`, which has all names that occur."""
        place = {name: number for number, name in enumerate(classes)}
        numbers = [place.get(name, -1) for name in self.classes]
        splits = {
            split: Samples(sorted((s._replace(label=numbers[s.label]) for s in samples), key=attrgetter("label")))
            for split, samples in self.splits.items()
        }
        return replace(self, classes=tuple(classes), splits=splits)

    def with_val_in_train(self) -> "ImageIndex":
        """Return the index with the validation images among those to train on, and no validation split."""
        joined = sorted([*self.splits["train"], *self.splits["val"]], key=attrgetter("label", "file"))
        splits = {split: samples for split, samples in self.splits.items() if split != "val"}
        return replace(self, splits={**splits, "train": Samples(joined)})

    def without(self, paths: Collection[Path], to_train: bool = True) -> "ImageIndex":
        """Return the index without these files.

        Args:
            paths: The files.
            to_train: Whether it is for training, which needs images of every class.

        Raises:
            UserError: There are train and val to train with, and a class has no image left in train, or val has
                none at all; or there is nothing to train with, and no file is left.
        """
        if not paths:
            return self
        gone = set(map(str, paths))
        kept = {split: Samples(s for s in samples if s.file not in gone) for split, samples in self.splits.items()}
        issues = []
        for split in kept if {"train", "val"} <= kept.keys() else ():
            had, has = ({*splits[split].labels.tolist()} for splits in (self.splits, kept))
            empty = [self.classes[label] for label in sorted(had - has)]
            if empty and to_train and (split == "train" or (split == "val" and not has)):
                leave_out = exclude_argument((split == "val" and self._folder_of(split)) or empty)
                raise UserError(
                    f"No readable image is left in {split} for {few(map(repr, empty))} below {self.root}: mend the "
                    f"files listed as unreadable, add images, or give {leave_out} to leave this out."
                )
            if empty:
                issues.append(f"No readable image is left in {split} for {few(map(repr, empty))}.")
        splits = {split: samples for split, samples in kept.items() if samples}
        if not splits and not to_train:
            raise UserError(f"None of {counted(paths, 'image')} below {self.root} can be read: replace them.")
        return replace(self, splits=splits, issues=(*self.issues, *issues))

    def _folder_of(self, split: str) -> list[str]:
        """Return the folder, relative to the root, that all files of a split and none of train lie in, if any."""
        folder = os.path.commonpath([os.path.dirname(sample.file) for sample in self.splits[split]])  # noqa: PTH120
        if any(sample.file.startswith(f"{folder}/") for sample in self.splits["train"]):
            return []
        return [self.relative(Path(folder))]


def folder_index(
    root: str | os.PathLike[str],
    val_fraction: float = 0.2,
    test_fraction: float = 0.0,
    seed: int = 0,
    exclude: Iterable[str] = (),
    min_images: int | None = None,
    nested: bool = False,
    group: str | None = None,
    limit: int | float | None = None,
    folds: int | None = None,
    fold: int | None = None,
) -> ImageIndex:
    """Index a folder of class folders.

    Two layouts: `root/<split>/<class>/**`, with the splits' names as people use them (see `split_folders`), or
    `root/<class>/**`; either may lie in the only folder of the root. A missing val or test is split off train (see
    `splitting.division`). A folder for it without class folders has no labels and is not used.

    Args:
        root: Folder of the data.
        val_fraction: Share of the validation split, in (0, 1).
        test_fraction: Share of the test split, in [0, 1).
        seed: Seed of the split.
        exclude: Glob patterns of files and folders to leave out, relative to `root`, or of class names
            (`scan.Exclude`).
        min_images: Least number of images of a class below train; classes with fewer are left out. None keeps all.
        nested: Whether all class folders may hold the same folders, which otherwise are probably the classes.
        group: Regular expression that finds in a path what groups it with others (`groups.groups_by_pattern`).
        limit: See `Division`, as for `folds` and `fold`.
        folds: Number of folds.
        fold: The fold that is val.

    Raises:
        UserError: The folder, a class or a fraction cannot be used.
    """
    division = Division(val_fraction, test_fraction, seed, folds, fold, limit)
    base, left_out = check_root(root), Exclude(exclude, root)
    top = read_folder(base, left_out)
    layout = find_splits(top)
    places = _kept(layout.splits or {"train": layout.base}, left_out)
    found = {split: _class_files(folder) for split, folder in places.items()}
    _check_classes(root, top, places["train"], found["train"])
    if not nested:
        _check_nesting(places["train"])
    remarks = [*_remarks(base, top, layout, places), *left_out.issues(), *_join_spellings(found, found["train"])]
    group_of = None
    if group is not None:
        every = (file for classes in found.values() for files in classes.values() for file in files)
        group_of, told = groups_by_pattern(group, every)
        remarks += told
    by_folds = "val" in found and not folds
    if_cut = "data.folds=5 data.fold=0 divides train and val by groups" if by_folds else "keep each in one folder"
    return build_index(base, found, division, remarks, min_images, group_of, if_cut)


def evaluation_index(
    root: str | os.PathLike[str], exclude: Iterable[str] = (), classes: Collection[str] = ()
) -> ImageIndex:
    """Index a folder of class folders for evaluation only.

    The layouts are those of `folder_index`, but nothing is split off, and any split or class may be missing.
    Without split folders all images are in one split, "all".

    Args:
        root: Folder of the data.
        exclude: Glob patterns, relative to `root`, of files to leave out (`scan.Exclude`).
        classes: Names of the classes that are known, which tell class folders from others.

    Raises:
        UserError: There is no class folder with an image.
    """
    base, left_out = check_root(root), Exclude(exclude, root)
    top = read_folder(base, left_out)
    layout = find_splits(top, classes, any_split=True)
    # where nothing has labels, the first folder's mistake is named
    places = _kept(layout.splits or {UNSPLIT: next(iter(layout.unlabeled), layout.base)}, left_out)
    found = {split: files for split, folder in places.items() if (files := _class_files(folder))}
    if not found:
        _check_classes(root, top, next(iter(places.values())), {}, least=1)
    remarks = [*_remarks(base, top, layout, places), *left_out.issues(), *_join_spellings(found, classes)]
    return unsplit_index(base, found, remarks)


def unsplit_index(root: Path, found: Mapping[str, Files], issues: Iterable[str]) -> ImageIndex:
    """Build an index of the given splits as they are, with the classes found in any of them.

    Args:
        root: Absolute path of the data.
        found: Split name -> class name -> POSIX paths relative to `root`, or absolute.
        issues: Sentences to keep with the index.
    """
    classes = tuple(in_class_order({name for files in found.values() for name, paths in files.items() if paths}))
    splits = {
        split: Samples(
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
    division: Division,
    issues: Iterable[str],
    min_images: int | None = None,
    group_of: GroupOf | None = None,
    if_cut: str = "",
) -> ImageIndex:
    """Build an index: leave out rare classes, divide what is there, and check the classes of the splits.

    Args:
        root: Absolute path of the data.
        found: Split name -> class name -> POSIX paths relative to `root`; "train" is required.
        division: How to divide them.
        issues: Sentences to keep with the index.
        min_images: Least number of images, with a decoder, of a class in train before anything is split off; None
            keeps all.
        group_of: File -> group; None: there are no groups.
        if_cut: What to do about groups that the given splits cut in two, for a remark.

    Raises:
        UserError: There are fewer than two classes, or val or test has one that train has not.
    """
    check_value("data.min_images", min_images)
    remarks = [*issues]
    if division.folds and (val := found.get("val")):
        train = {name: [*found["train"].get(name, ()), *val.get(name, ())] for name in {**found["train"], **val}}
        found = {split: files for split, files in found.items() if split != "val"} | {"train": train}
        given = _images(sum(map(len, val.values())))
        remarks.append(f"The given val ({given}) is divided together with train, as data.folds asks.")
    readable = {name: with_decoder(files) or files for name, files in found["train"].items()}
    rare = {name: files for name, files in readable.items() if len(files) < (min_images or 0)}
    kept = {split: {c: files[c] for c in files if c not in rare} for split, files in found.items()}
    splits = {split: classes for split, classes in kept.items() if classes or split == "train"}
    train = splits["train"]
    if rare:
        remarks.append(
            f"data.min_images={min_images} leaves out {counted(rare, 'class', 'classes')} of fewer images: "
            f"{_sizes(rare)}."
        )
    if len(train) < 2:
        only = f"only one class ({next(iter(train))!r})" if train else "no class"
        least = f" of at least data.min_images={min_images} images" if rare else ""
        raise UserError(f"{root} holds {only}{least}: a classifier needs images of at least two classes.")
    for split, classes in sorted(splits.items(), reverse=True):  # val before test
        if alone := sorted(classes.keys() - train.keys()):
            what = f"{'the class' if len(alone) == 1 else 'the classes'} {few(map(repr, alone))} (below {root})"
            raise UserError(
                f"Only {split}, not train, has {what}: {_if_meant(root, classes, train)}add train images, correct "
                f"the names, or give {exclude_argument(alone)} to leave out what train has not."
            )
        if missing := sorted(train.keys() - classes.keys()):
            way_out = f"; {exclude_argument(missing)} leaves out what has none" if len(missing) <= 10 else ""
            remarks.append(f"The {split} split has no image of {few(map(repr, missing))}{way_out}.")
    remarks += [f"The {split} split has no image of a class that is used." for split in kept if split not in splits]
    parts, told = divide(splits, readable, division, group_of, if_cut)
    return unsplit_index(root, parts, [*remarks, *told])


def _if_meant(root: Path, classes: Files, train: Files) -> str:
    """Return the beginning of a way out for classes that train has under a name that is nearly the same.

    Args:
        root: Absolute path of the data.
        classes: Class -> files of another split.
        train: Class -> files of train.
    """
    free, moves, told = sorted(train.keys() - classes.keys()), [], []
    for name in sorted(classes.keys() - train.keys()):
        for meant in difflib.get_close_matches(name, free, n=1, cutoff=0.75):
            free.remove(meant)
            told.append(f"{name!r} is {meant!r}")
            before, found, _ = f"{root}/{classes[name][0]}".rpartition(f"/{name}/")
            moves += [shell_command(["mv", f"{before}/{name}", f"{before}/{meant}"])] if found else []
    if not told:
        return ""
    return f"if {few(told)}, give {' && '.join(moves)}; else " if moves else f"if {few(told)}, write it so; else "


def _images(count: int) -> str:
    return counted(range(count), "image", "images")


def _sizes(classes: Files) -> str:
    return few(f"{name} ({len(files)})" for name, files in classes.items())


def _kept(places: Mapping[str, Folder], exclude: Exclude) -> dict[str, Folder]:
    """Return the folders that hold class folders without those that are excluded as a class of any split."""
    return {
        split: replace(folder, folders=[inner for inner in folder.folders if not exclude.folder(inner.name)])
        for split, folder in places.items()
    }


def _class_files(folder: Folder) -> Files:
    """Return class name -> image files of the class folders in a folder.

    Raises:
        UserError: The user may not read a folder.
    """
    classes: Files = {}
    for inner in folder.filled:
        try:
            classes.setdefault(inner.name, []).extend(inner.files())
        except UserError as error:
            raise UserError(f"{error}, or leave it out with {exclude_argument([inner.path])}") from None
    return classes


def _join_spellings(found: dict[str, Files], classes: Iterable[str]) -> list[str]:
    """Give classes the names that they have in `classes`, where capitals or blanks alone differ; return remarks."""
    spelled = {name: [*alike] for name, alike in groupby(sorted(classes, key=folded), key=folded)}
    joined = dict[str, None]()
    for split, files in found.items():
        for name in in_class_order(files):
            alike = spelled.get(folded(name), [])
            if len(alike) == 1 and name != alike[0]:
                files.setdefault(alike[0], []).extend(files.pop(name))
                joined[f"{name!r} in {split} as {alike[0]!r}"] = None
    several = [" and ".join(map(repr, alike)) for alike in spelled.values() if len(alike) > 1]
    remarks = {
        "Taken for one class, since capitals or blanks alone differ": few(joined),
        "Classes of their own, though capitals or blanks alone differ": few(several),
    }
    return [f"{what}: {names}." for what, names in remarks.items() if names]


def _check_classes(
    root: str | os.PathLike[str], top: Folder, folder: Folder, classes: Files, least: int = 2
) -> None:
    """Raise a `UserError` if a folder has too few class folders with images."""
    empty = [repr(f"{inner.path}/") for inner in folder.folders if not inner.count and not inner.has_outputs]
    if (outputs := dict.fromkeys([*top.outputs, *folder.outputs])) and len(classes) < least:
        raise UserError(
            f"Left out below data.root={root} as an output of tlab, since run.json or the like is there: "
            f"{few(f'{path}/' for path in outputs)}; move what tlab wrote out of the images' folders"
        )
    if not empty and len(classes) == 1 and is_plain(folder.filled[0].name) and not folder.filled[0].filled:
        folder, classes = folder.filled[0], {}  # such as `images`, which is no class
    if not classes and not empty:
        loose = " its images lie side by side, not in class folders;" if folder.images else ""
        loose += f" unpack {few(in_order(folder.archives))} first;" if folder.archives else ""
        way_out = table_of_names(folder.place, folder.images)
        raise UserError(
            f"{folder.place} has no class folders:{loose} {f'{way_out}; or ' if way_out else ''}"
            "give a folder with one folder of images for each class, or data=csv with a table of labels."
        )
    if empty and len(classes) < least:
        only = f", and {next(iter(classes))!r} alone is no choice" if classes else ""
        others = sum((inner.others for inner in folder.folders if not inner.count), Counter[str]())
        there = f" ({extensions(others)})" if others else ""
        raise UserError(
            f"{few(empty)} below data.root={root} {'hold' if len(empty) > 1 else 'holds'} no file with an "
            f"image's extension{there}{only}: add images, or give the names their extensions, or "
            "give a folder with one folder of images for each class."
        )


def _check_nesting(folder: Folder) -> None:
    """Raise a `UserError` if a class folder holds split folders or the classes, or most hold the same folders.

    A patient may lack a class: what some hold are the classes too, if all others hold nothing else.
    """
    classes = folder.filled
    names = {each.name for each in classes}
    held = Counter(inner.name for each in classes for inner in each.filled)
    shared = in_order([name for name, number in held.items() if number > max(1, len(classes) / 2)])
    others = [name.lower() for name in names if not is_plain(name)]
    if 0 < len(others) < len(names) and all(map(_MASKS.fullmatch, others)):  # such as images and annotations
        listed = in_order([*names])
        images = next(each for each in classes if is_plain(each.name))
        raise UserError(
            f"{few(listed)} below {folder.place} are no classes by their names: if they are, give "
            f"data.nested=true, else {shell_argument('data.root', images.place)}, or a folder of class folders"
        )
    holders = [each for each in classes if {*shared} <= {inner.name for inner in each.filled}]
    which = few(each.name for each in holders)
    if holders and len(shared) > 1:
        masks = [name for name in shared if _MASKS.fullmatch(name.lower())]
        if 0 < len(masks) < len(shared):
            way_out = shell_argument("data.exclude", [f"*/{glob.escape(name)}" for name in masks])
            raise UserError(
                f"{which} below {folder.place} hold the same folders ({few(shared)}); leave {few(masks)} out with "
                f"{way_out}, or give data.nested=true to train on these too"
            )
        inside = [inner for each in holders for inner in each.filled if split_of(inner.name)]
        splits = in_order([*{inner.name for inner in inside}])
        if {"train"} < {*map(split_of, shared)} - {None} and not any(inner.filled for inner in inside):
            new = f"{folder.place}_by_split"
            raise UserError(
                f"{which} below {folder.place} hold split folders ({few(splits)}), which belong above the "
                f"classes, as {inside[-1].name}/{holders[-1].name}; give {shell_argument('data.root', new)} after "
                f"{_links(folder, splits, new)}, or data.nested=true if all images of each are for training"
            )
        raise UserError(
            f"{which} below {folder.place} hold the same folders ({few(shared)}), which look like "
            f"the classes: if {which} are the classes, give data.nested=true, else one of them with "
            f"{shell_argument('data.root', holders[0].place)}"
        )
    levels = [_past_plain(each) for each in classes]
    if alike := _classes_in(levels):
        which, new = few(each.name for each in classes), f"{folder.place}_by_class"
        way_out = f"data.nested=true {shell_argument('data.root', new)} after {_links(folder, alike, new)}"
        if levels != classes:  # each has its own folder of images
            fullest = max(levels, key=lambda level: len(level.filled))
            way_out = f"one of them with {shell_argument('data.root', fullest.place)}"
        raise UserError(
            f"{which} below {folder.place} hold the same folders ({few(alike)}), which look like the classes: "
            f"if {which} are the classes, give data.nested=true, else {way_out}"
        )
    for each in classes:
        if len(again := names.intersection(inner.name for inner in each.filled)) > 1:
            raise UserError(
                f"{each.path}/ holds folders with the names of classes ({few(in_order([*again]))}): if it is a "
                f"class, give data.nested=true, else leave it out with {exclude_argument([each.path])}"
            )
        splits = [inner.name for inner in each.filled if split_of(inner.name)]
        has_splits = {"train"} < {*map(split_of, splits)}
        if has_splits or (len(each.filled) > 1 and not each.images and is_plain(each.name)):
            what = "split folders" if has_splits else "folders of images"
            below = few(in_order(splits if has_splits else [inner.name for inner in each.filled]))
            raise UserError(
                f"{each.path}/ holds {what} ({below}): if it is a class all the same, give data.nested=true, else "
                f"{shell_argument('data.root', each.place)}"
            )


def _past_plain(folder: Folder) -> Folder:
    """Return the folder, or where it holds nothing but a folder such as `images`, that one."""
    while len(folder.filled) == 1 and not folder.images and is_plain(folder.filled[0].name):
        (folder,) = folder.filled
    return folder


def _classes_in(folders: Sequence[Folder]) -> list[str]:
    """Return the names in these folders, if each is in several of them, or one has them all and each other some."""
    held = [{inner.name for inner in each.filled if not is_plain(inner.name)} for each in folders]
    count = Counter(name for names in held for name in names)
    if len(folders) < 2 or len(count) < 2 or not all(held) or any(each.images for each in folders):
        return []
    in_several = min(count.values()) > 1 or {*count} in held
    return in_order([*count]) if in_several and not any(map(split_of, count)) else []


def _links(folder: Folder, splits: Iterable[str], new: str) -> str:
    """Return a command of bash that links class/split as split/class in a new folder."""
    globs = " ".join(f"*/{shell_word(name)}" for name in splits)
    return (
        f'(cd {shell_word(folder.place)} && for f in {globs}; do mkdir -p {shell_word(new)}/"${{f#*/}}" && '
        f'ln -s "$PWD/$f" {shell_word(new)}/"${{f#*/}}/${{f%/*}}"; done)'
    )


def _remarks(root: Path, top: Folder, layout: Layout, places: Mapping[str, Folder]) -> list[str]:
    """Return sentences about all below the root that is not used, and why."""

    def numbered(folders: Iterable[Folder]) -> str:
        return few(f"{folder.path}/ ({_images(folder.count)})" for folder in folders)

    used = list(places.values())
    splits = [folder for folder in layout.base.folders if layout.splits and split_of(folder.name)]
    inside = [inner for place in used for inner in place.folders if not (inner.is_closed or inner.has_outputs)]
    empty = [
        f"{folder.path}/" + (f" ({extensions(folder.others)})" if folder.others else "")
        for folder in (*inside, *splits)
        if not folder.count
    ]
    above = {folder.path: folder for folder in (top, layout.base, *used)}.values()
    loose = [f"{folder.path}/{name}".lstrip("/") for folder in above for name in in_order(folder.images)]
    archives = [f"{folder.path}/{name}".lstrip("/") for folder in above for name in folder.archives]
    others = Counter[str]()
    for inner in (inner for place in used for inner in place.filled):
        others.update(inner.others)
    remarks = {
        "All images below {} are in its only folder with any": layout.base.path and f"{layout.base.path}/",
        "Taken for classes below {}, since splits need a train folder with class folders": numbered(
            layout.as_classes
        ),
        "Not used below {}, since no folder in it is one of the classes": numbered(layout.unlabeled),
        "Not used below {}, since they lie beside the split folders": numbered(layout.beside),
        "Not used below {}, since they are in no class folder": f"{_images(len(loose))} ({few(loose)})"
        * bool(loose),
        "No class below {}, since it holds no image": few(empty),
        "No class below {}, since run.json or the like marks an output of tlab": few(
            f"{path}/" for place in used for path in place.outputs
        ),
        "Not used below {}, since by extension or kind they are no image files": extensions(others),
        "Not used below {}, since archives are not read (unpack what holds images)": few(in_order(archives)),
    }
    return [f"{what.format(root)}: {names}." for what, names in remarks.items() if names]
