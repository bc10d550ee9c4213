"""Groups of images that stay on one side when images are divided: those of one person, plant or series."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from tlab.config.overrides import shell_argument
from tlab.core.errors import UserError
from tlab.core.text import counted, few
from tlab.data.sources.scan import nfc

Files = dict[str, list[str]]  # class name -> POSIX paths relative to the root
GroupOf = Mapping[str, str]  # file -> its group; a file that is not in it is a group of its own

EXAMPLE = r"person(\d+)_"


def groups_by_pattern(
    pattern: str, files: Iterable[str], no_column: str = "", column: str | None = None
) -> tuple[dict[str, str], list[str]]:
    """Return file -> what a regular expression captures in its path or else in its name alone, and remarks.

    Args:
        pattern: Regular expression with one group, searched for.
        files: POSIX paths relative to the root.
        no_column: Of a table: words on the columns that it has instead of one called like the pattern.
        column: A column that may be meant.

    Raises:
        UserError: It is no regular expression, has not exactly one group, or matches nothing.
    """
    what = f"data.group={pattern} {no_column}"
    example = f"a regular expression with one group, such as {shell_argument('data.group', EXAMPLE)}"
    give = f"give {shell_argument('data.group', column)}, or {example}" if column else f"give {example}"
    try:
        expression = re.compile(nfc(pattern))
    except re.error as error:
        raise UserError(f"{what}is no regular expression ({error}); {give}") from None
    if expression.groups != 1:
        several = f"has {expression.groups} groups, of which all but one are to be written (?:...)"
        raise UserError(f"{what}{several if expression.groups else 'has no group in brackets'}; {give}")
    found, others = {}, []
    for file in files:
        if group := captured(expression, file):
            found[file] = group
        else:
            others.append(file)
    if not found:
        raise UserError(f"{what}matches none of the {counted(others, 'name')} ({few(others)}); {give}")
    return found, lone_images(others, f"a match of data.group={pattern}")


def lone_images(images: Sequence[str], lacking: str) -> list[str]:
    """Return the remark on images that are in no group with others, if there are any."""
    number = counted(images, "image", "images")
    return [f"Without {lacking}: {number}, each a group of its own ({few(images)})."][: len(images)]


def captured(expression: re.Pattern[str], file: str) -> str:
    """Return what an expression's group captures in a file's path, or else in its name alone; "" for nothing."""
    path = nfc(file)
    match = expression.search(path) or expression.search(path.rpartition("/")[2])
    return (match[1] or "") if match else ""


def cut_groups(splits: Mapping[str, Files], group_of: GroupOf, way_out: str) -> list[str]:
    """Return a remark on the groups that given splits cut in two, if there are any.

    Args:
        splits: Split name -> its files.
        group_of: The groups.
        way_out: What to do about it.
    """
    sides: dict[str, Counter[str]] = defaultdict(Counter)  # group -> split -> images
    for split, classes in splits.items():
        for file in (file for files in classes.values() for file in files if file in group_of):
            sides[group_of[file]][split] += 1
    cut = {group: sides[group] for group in sorted(sides) if len(sides[group]) > 1}
    if not cut:
        return []
    order = [split for split in ("train", "val", "test") if split in splits]
    named = few(f"{group} in {' and '.join(split for split in order if split in cut[group])}" for group in cut)
    measured = sum(number for sizes in cut.values() for split, number in sizes.items() if split != "train")
    number = f"{counted(cut, 'group', 'groups')} of data.group {'is' if len(cut) == 1 else 'are'}"
    return [
        f"{number} cut in two by the splits that are given ({named}): {counted(measured, 'image')} outside train "
        f"may be easier than new ones; {way_out}."
    ]
