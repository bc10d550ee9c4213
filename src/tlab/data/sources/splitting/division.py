"""The division of a dataset's images into train, val and test, by the keys that say how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tlab.config.overrides import exclude_argument
from tlab.config.validation import check_folds, check_value
from tlab.core.errors import UserError
from tlab.core.text import counted, few
from tlab.data.sources.split import check_fractions, place, split_classes
from tlab.data.sources.splitting.folds import fold_files, fold_groups
from tlab.data.sources.splitting.grouped_split import split_groups
from tlab.data.sources.splitting.groups import Files, GroupOf, cut_groups


@dataclass(frozen=True)
class Division:
    """How images are divided.

    Attributes:
        val_fraction: Share of the validation split, in (0, 1), if none is given.
        test_fraction: Share of the test split, in [0, 1), if none is given.
        seed: Seed of everything drawn.
        folds: Number of folds into which train and val are divided together; None: they are not.
        fold: The fold that is val.
        limit: Largest number of training images of each class, or the share of them that is kept; None: all.

    Raises:
        UserError: A number is out of range, or there is `fold` without `folds` or the other way round.
    """

    val_fraction: float | None = 0.2
    test_fraction: float = 0.0
    seed: int = 0
    folds: int | None = None
    fold: int | None = None
    limit: int | float | None = None

    def __post_init__(self) -> None:
        check_folds(self.folds, self.fold)
        check_value("data.limit", self.limit)


def divide(
    splits: Mapping[str, Files],
    readable: Files,
    division: Division,
    group_of: GroupOf | None = None,
    way_out: str = "",
) -> tuple[dict[str, Files], list[str]]:
    """Draw from train what is missing, and limit what is left of it.

    Args:
        splits: Split name -> class name -> files; "train" is required, "val" must not be there with folds.
        readable: Class name -> files of train for which there is a decoder; others stay in train without a limit.
        division: How to divide.
        group_of: File -> group; None: there are no groups.
        way_out: What to do about groups that the given splits cut in two, for a remark.

    Returns:
        The splits, and remarks on classes that are not in all of them, and on images that are left out.

    Raises:
        UserError: Nothing would be left for some split.
    """
    val = None if "val" in splits or division.folds else division.val_fraction
    test = None if "test" in splits else division.test_fraction
    check_fractions(val, test)
    train = {name: readable[name] for name in splits["train"]}
    others = {
        name: {*files}.difference(train[name]) if len(files) > len(train[name]) else ()
        for name, files in splits["train"].items()
    }
    parts: dict[str, Files] = {**splits, "train": train}
    remarks: list[str] = []
    if val or test:
        drawn = _draw(train, val, test, division.seed, group_of)
        parts |= drawn
        remarks += _undivided(train, drawn, group_of)
    if division.folds:
        parts["train"], parts["val"], told = _fold(parts["train"], division, group_of)
        remarks += told
    if division.limit is not None:
        parts["train"], told = _limited(parts["train"], division)
        remarks += told
    else:
        parts["train"] = {name: [*files, *others[name]] for name, files in parts["train"].items()}
    return parts, remarks + (cut_groups(parts, group_of, way_out) if group_of else [])


def _draw(
    train: Files, val: float | None, test: float | None, seed: int, group_of: GroupOf | None
) -> dict[str, Files]:
    if group_of is None:
        return split_classes(train, val, test, seed)
    parts = split_groups(train, group_of, val, test, seed)
    if not all(parts.values()):
        found = {group_of.get(file, file): None for files in train.values() for file in files}
        raise UserError(
            f"data.group finds {counted(found, 'group', 'groups')} ({few(found)}), which cannot be split into "
            f"{' and '.join(parts)} so that train keeps every class: give another data.group, or data.group=null "
            "to split by images"
        )
    return parts


def _undivided(train: Files, parts: Mapping[str, Files], group_of: GroupOf | None) -> list[str]:
    """Return remarks on classes that have no image in one of the parts drawn."""
    lone = {name: files for name, files in train.items() if _count(files, group_of) < len(parts)}
    if group_of is None:
        way_out = f"data.min_images={len(parts)} leaves such classes out"
    else:
        way_out = f"{exclude_argument([*lone][:10])} leaves {'ten' if len(lone) > 10 else 'these'} out"
    remarks = [
        f"{counted(lone, 'class has', 'classes have')} too few {_units(group_of)} to be split into "
        f"{' and '.join(parts)}, so all of them are trained on and none is measured: {_sizes(lone)}; {way_out}."
    ][: len(lone)]
    for part, classes in parts.items():
        if missing := [name for name in train if name not in classes and name not in lone]:
            remarks.append(f"No group with {few(map(repr, missing))} is in {part}.")
    return remarks


def _fold(train: Files, division: Division, group_of: GroupOf | None) -> tuple[Files, Files, list[str]]:
    """Return the files of train and of val, and remarks on classes that are not in every fold."""
    folds, fold = division.folds, division.fold
    assert folds is not None
    if group_of is None:
        fold_of = fold_files(train, folds, division.seed)
    else:
        fold_of = fold_groups(train, group_of, folds, division.seed)
    if (filled := len({*fold_of.values()})) < folds:
        raise UserError(
            f"data.folds={folds} is more than the {_units(group_of)} fill, as every class has to be in train too; "
            f"{f'give data.folds={filled} data.fold=0' if filled > 1 else 'leave data.folds and data.fold out'}"
        )
    val = {name: [file for file in files if fold_of.get(file) == fold] for name, files in train.items()}
    left = {name: [file for file in files if fold_of.get(file) != fold] for name, files in train.items()}
    folds_of = {name: {fold_of[file] for file in files if file in fold_of} for name, files in train.items()}
    fewer = {name: files for name, files in train.items() if 0 < len(folds_of[name]) < folds}
    always = [file for files in train.values() for file in files if file not in fold_of]
    lone = [name for name in train if not folds_of[name]]
    remarks = []
    if fewer:
        remarks.append(
            f"{counted(fewer, 'class has', 'classes have')} too few {_units(group_of)} to be in val of each of "
            f"data.folds={folds}: {_sizes(fewer)}."
        )
    if always:
        way_out = f"; {exclude_argument(lone)} leaves {few(map(repr, lone))} out" if 0 < len(lone) <= 10 else ""
        remarks.append(
            f"{counted(always, 'image is', 'images are')} trained on in every fold and never measured, since train "
            f"would lack a class without them ({few(always)}){way_out}."
        )
    return left, {name: files for name, files in val.items() if files}, remarks


def _limited(train: Files, division: Division) -> tuple[Files, list[str]]:
    """Return the training files that the limit leaves, those of a smaller limit among them, and a remark."""
    limit, kept = division.limit, Files()
    assert limit is not None
    for name, files in train.items():
        count = limit if isinstance(limit, int) else max(1, round(limit * len(files)))
        kept[name] = sorted(files, key=lambda file: (place(f"limit\0{file}", division.seed), file))[:count]
    before, after = (sum(map(len, classes.values())) for classes in (train, kept))
    remark = f"data.limit={limit} leaves out {before - after} of the {before} images of train."
    return kept, [remark][: before - after]


def _count(files: Sequence[str], group_of: GroupOf | None) -> int:
    return len(files) if group_of is None else len({group_of.get(file, file) for file in files})


def _units(group_of: GroupOf | None) -> str:
    return "images" if group_of is None else "groups"


def _sizes(classes: Files) -> str:
    return few(f"{name} ({len(files)})" for name, files in classes.items())
