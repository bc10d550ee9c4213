"""Splitting of each class into train, val and test by a hash of the file name."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from tlab.config.validation import check_value
from tlab.core.errors import UserError
from tlab.core.text import few
from tlab.data.sources.scan import nfc

Fraction = float | None  # None: the split exists already, nothing is split off for it


def place(name: str, seed: int) -> float:
    """Return the place of a file in [0, 1), a function of its name and the seed.

    Args:
        name: POSIX path relative to the root of the data.
        seed: Seed of the split; places under different seeds are independent.
    """
    key = f"{seed}\0{nfc(name)}".encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big") / 2**64


def split_class(names: Sequence[str], val: Fraction, test: Fraction, seed: int) -> dict[str, list[str]]:
    """Split the files of one class.

    A file goes to test if its place is below `test`, to val if it is below `test + val`, else to train. This does
    not depend on other files, so adding or removing one moves no other. Chance alone could leave a small class
    without validation images, so the size of each part is kept between 0.5 and 1.5 times its share (at least one
    image): beyond these bounds, as few files as needed, those nearest to the threshold, change parts; only then may
    an added file move another, and at most one.

    Args:
        names: POSIX paths relative to the root, all of one class.
        val: Share of the validation part, None for no such part.
        test: Share of the test part, None for no such part.
        seed: Seed of the split.

    Returns:
        Part name -> names, in the order given. With fewer files than parts all are in train; else every part has
        a file.
    """
    wanted = {part: share for part, share in (("test", test), ("val", val)) if share}
    if len(names) <= len(wanted):
        return {"train": list(names), **{part: [] for part in wanted}}
    order = sorted((place(name, seed), name) for name in names)
    side: dict[str, str] = {}
    threshold, start, later = 0.0, 0, len(wanted)
    for part, share in wanted.items():
        threshold += share
        natural = bisect_left(order, (threshold, "")) - start
        low, high = int(share * len(order) / 2), int(share * len(order) * 1.5)
        # `later` parts (train is the last) still need one file each
        stop = start + max(1, min(max(natural, low), high, len(order) - start - later))
        side |= {name: part for _, name in order[start:stop]}
        start, later = stop, later - 1
    split: dict[str, list[str]] = {part: [] for part in ("train", *wanted)}
    for name in names:
        split[side.get(name, "train")].append(name)
    return split


def split_classes(
    names: Mapping[str, Sequence[str]], val: Fraction, test: Fraction, seed: int
) -> dict[str, dict[str, list[str]]]:
    """Split every class by `split_class`. A part has only the classes of which it has a file.

    Args:
        names: Class name -> its files (POSIX paths relative to the root).
        val: Share of the validation part, None where a validation folder exists.
        test: Share of the test part, None or 0 for none.
        seed: Seed of the split.

    Returns:
        Part name ("train", "val", "test") -> class name -> files.

    Raises:
        UserError: Every class has too few images, so that nothing but train has any.
    """
    parts = ["train", *(part for part, share in (("val", val), ("test", test)) if share)]
    split = {name: split_class(files, val, test, seed) for name, files in names.items()}
    if not any(parted[parts[-1]] for parted in split.values()):
        raise UserError(
            f"None of the {len(names)} classes ({few(names)}) has the {len(parts)} images that a split into "
            f"{' and '.join(parts)} takes: look whether these are the classes, or add images."
        )
    return {part: {name: split[name][part] for name in names if split[name][part]} for part in parts}


def check_fractions(val: Fraction, test: Fraction) -> None:
    """Raise a `UserError` if the shares leave no training data, or no validation data."""
    check_value("data.val_fraction", val)
    check_value("data.test_fraction", test)
    if val == 0:
        raise UserError(
            "data.val_fraction=0 leaves no validation images: give a share such as data.val_fraction=0.2, or a val "
            "folder."
        )
    if (val or 0) + (test or 0) >= 1:
        raise UserError(
            f"data.val_fraction={val} and data.test_fraction={test} leave nothing to train on: "
            "their sum must be below 1."
        )
