"""Groups of images that names or a table tell, such as those of one patient, on both sides of a split."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tlab.data.sources.label_table import as_seen
from tlab.data.sources.scan import nfc
from tlab.data.sources.splitting.groups import captured
from tlab.data.sources.table_columns import MISSING

PATTERNS = (  # what captures the group in a path, the most telling first; `data.group` takes them as they are
    r"([^/]+)[._]rf\.[0-9a-f]+\.",  # variants of one image that labeling tools write
    r"(?:^|/)([^/]*?\d[^/_ -]*)[_ -][^/]*$",  # person12_virus_34.jpg, 00000013_005.png
    r"(?:^|/)([^/]+)/(?!\1)[^/]+$",  # a folder for each; not 00/00123.jpg, which spreads files over folders
)
COVERED = 0.5  # least share of the images that a pattern matches
TOGETHER = 0.3  # least share of them in groups of two and more of a class and split
LARGEST = 1 / 3  # share of its class from which a group is no person or series, but a kind


@dataclass(frozen=True)
class GroupLeak:
    """A group with images in train and in another split.

    Attributes:
        group: What the names share.
        train: Rows of its training images.
        other: Rows of its images in the other split.
        split: The other split.
    """

    group: str
    train: list[int]
    other: list[int]
    split: str


def image_groups(
    names: Sequence[str],
    classes: Sequence[str],
    splits: Sequence[str],
    given: str | None,
    cells: Sequence[str] | None = None,
) -> tuple[str, list[str]]:
    """Return the column or the pattern that tells groups, and the group of each image, "" where it is in none.

    A pattern counts if it matches most names, and many of one class and split share what it captures, but no group
    has a large part of a class: `cat.1.jpg` is a cat, and no series. The numbers of `1_cat.jpg` and `1_dog.jpg`, or
    of `train/cat/1_a.jpg` and `val/cat/1_a.jpg`, say nothing.

    Args:
        names: Paths relative to the root of the data.
        classes: Name of each image's class.
        splits: Split of each.
        given: `data.group`, which counts in any case.
        cells: Those of the table's column of that name; None: there is none, or no table.

    Returns:
        Both; "" and no group at all if the names tell none.
    """
    if given is not None and cells is not None:
        return given, ["" if cell.casefold() in MISSING else cell for cell in map(as_seen, cells)]
    for pattern in PATTERNS if given is None else [given]:
        try:
            expression = re.compile(nfc(pattern))
        except re.error:
            continue
        if expression.groups != 1:
            continue
        groups = [captured(expression, name) for name in names]
        if any(groups) if given is not None else _are_groups(groups, classes, splits):
            return pattern, groups
    return "", [""] * len(names)


def _are_groups(groups: Sequence[str], classes: Sequence[str], splits: Sequence[str]) -> bool:
    sizes = Counter(classes)
    in_class = Counter((group, name) for group, name in zip(groups, classes, strict=True) if group)
    in_split = Counter(place for place in zip(groups, classes, splits, strict=True) if place[0])
    together = sum(number for number in in_split.values() if number > 1)
    if in_class.total() < COVERED * len(groups) or together < TOGETHER * len(groups):
        return False
    return all(number == 1 or number <= LARGEST * sizes[name] for (_, name), number in in_class.items())


def group_leaks(groups: Sequence[str], splits: Sequence[str]) -> list[GroupLeak]:
    """Return the groups that train shares with another split, for each of these.

    Args:
        groups: Group of each image, "" where it is in none.
        splits: Split of each.
    """
    members: Mapping[str, Mapping[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, (group, split) in enumerate(zip(groups, splits, strict=True)):
        if group:
            members[group][split].append(row)
    return list(_leaks(members))


def _leaks(members: Mapping[str, Mapping[str, list[int]]]) -> Iterator[GroupLeak]:
    for group, by_split in members.items():
        for split, rows in by_split.items():
            if split != "train" and "train" in by_split:
                yield GroupLeak(group, by_split["train"], rows, split)
