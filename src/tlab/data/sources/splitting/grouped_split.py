"""Splitting of groups of images, each whole, into train, val and test by a hash of the group's name."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate

from tlab.data.sources.split import Fraction, place
from tlab.data.sources.splitting.groups import Files, GroupOf


def split_groups(
    names: Mapping[str, Sequence[str]], group_of: GroupOf, val: Fraction, test: Fraction, seed: int
) -> dict[str, Files]:
    """Split the files of all classes so that no group is in two parts.

    A group goes where its place lies, as a file does in `split_class`, which does not depend on other groups, so
    adding a file or a group moves no other. Chance alone could leave a class without validation images: from the
    class of the fewest groups on, the number of images of each part is kept between 0.5 and 1.5 times its share, as
    far as groups allow, by moving as few of them as possible that no rarer class has settled. A class of fewer
    groups than parts is in train alone, and train has an image of every class.

    Args:
        names: Class name -> its files (POSIX paths relative to the root).
        group_of: File -> its group, which may have several classes.
        val: Share of the validation part, None for no such part.
        test: Share of the test part, None or 0 for none.
        seed: Seed of the split.

    Returns:
        Part name ("train", "val", "test") -> class name -> files, where it has any.
    """
    wanted = {part: share for part, share in (("test", test), ("val", val)) if share}
    sizes: dict[str, Counter[str]] = {name: Counter(group_of.get(f, f) for f in names[name]) for name in names}
    places = {group: place(group, seed) for count in sizes.values() for group in count}
    ends = dict(zip(wanted, accumulate(wanted.values()), strict=True))
    side = {
        group: next((part for part, end in ends.items() if where < end), "train") for group, where in places.items()
    }
    settled: set[str] = set()
    for name in sorted(sizes, key=lambda name: (len(sizes[name]), name)):
        count = sizes[name]
        if len(count) <= len(wanted):
            side |= dict.fromkeys(count, "train")
        else:
            for part, share in wanted.items():
                order = sorted(count, key=lambda group: (abs(places[group] - ends[part]), group))
                _fit(side, order, count, part, share * count.total(), settled)
        settled |= count.keys()
    for count in sizes.values():
        if count and all(side[group] != "train" for group in count):
            side[max(count, key=places.__getitem__)] = "train"
    parts: dict[str, Files] = {part: defaultdict(list) for part in ("train", *reversed(wanted))}
    for name, files in names.items():
        for file in files:
            parts[side[group_of.get(file, file)]][name].append(file)
    return {part: dict(classes) for part, classes in parts.items()}


def _fit(
    side: dict[str, str],
    order: Sequence[str],
    count: Mapping[str, int],
    part: str,
    target: float,
    settled: Collection[str],
) -> None:
    """Move groups of one class between train and a part until its images are 0.5 to 1.5 times their target.

    The last group of neither moves.

    Args:
        side: Group -> part, changed in place.
        order: The class's groups, those first that move rather than others.
        count: Group -> its number of images of the class.
        part: The part.
        target: Wanted number of images.
        settled: Groups that stay.
    """
    low, high = (max(1, int(target * factor)) for factor in (0.5, 1.5))
    while True:
        inside = [group for group in order if side[group] == part]
        now = sum(count[group] for group in inside)
        if low <= now <= high:
            return
        more = now < low
        source = [group for group in order if side[group] == "train"] if more else inside
        then = {group: now + (count[group] if more else -count[group]) for group in source if group not in settled}
        near = [group for group, number in then.items() if (number <= high if more else number >= low)]
        best = near[0] if near else min(then, key=lambda group: abs(then[group] - target), default=None)
        if best is None or len(source) < 2 or (now and abs(then[best] - target) >= abs(now - target)):
            return
        side[best] = part if more else "train"
