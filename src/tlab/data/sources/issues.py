"""Readable files that look out of place: an odd format, or duplicates across splits or labels."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from tlab.core.text import few
from tlab.data.sources.folder import ImageIndex, Sample
from tlab.data.sources.verify import FileCheck

MANY = 50  # number of files of the usual format from which another format can be odd
RARE = 0.01  # largest share of files of an odd format

Place = tuple[str, Sample]  # split, and file with label


def find_issues(index: ImageIndex, verdicts: Mapping[str, FileCheck]) -> list[str]:
    """Return short sentences about files that can be read but deserve a look.

    Args:
        index: Index of the readable files.
        verdicts: `Sample.file` -> `FileCheck` of each of them.
    """
    return [*_odd_formats(index, verdicts), *_same_content(index, verdicts)]


def _odd_formats(index: ImageIndex, verdicts: Mapping[str, FileCheck]) -> list[str]:
    groups: dict[str, list[Sample]] = defaultdict(list)
    for samples in index.splits.values():
        for sample in samples:
            groups[verdicts[sample.file].format].append(sample)
    if not groups:
        return []
    usual = max(groups, key=lambda kind: len(groups[kind]))
    total = sum(map(len, groups.values()))
    if len(groups[usual]) < MANY:
        return []
    sentences = []
    for kind, odd in groups.items():
        if kind == usual or len(odd) > max(1, RARE * total):
            continue
        names = [index.relative(sample.path) for sample in odd]
        example = ", ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
        is_are = "is a" if len(names) == 1 else "are"
        sentences.append(
            f"{few(names)} {is_are} {kind} among {len(groups[usual])} {usual} files: look whether it belongs "
            f"to the data; data.exclude=[{example}] leaves it out."
        )
    return sentences


def _same_content(index: ImageIndex, verdicts: Mapping[str, FileCheck]) -> list[str]:
    places: dict[str, list[Place]] = defaultdict(list)
    for split, samples in index.splits.items():
        for sample in samples:
            places[verdicts[sample.file].digest].append((split, sample))
    leaks: dict[str, list[str]] = defaultdict(list)
    labels: list[str] = []
    for twins in (found for found in places.values() if len(found) > 1):
        for split in {place[0] for place in twins} - {"train"}:
            if any(place[0] == "train" for place in twins):
                leaks[split].append(_pair(index, twins, "train", split))
        different = sorted({sample.label for _, sample in twins})
        if len(different) > 1:
            labels.append(_pair(index, twins, *different[:2]))
    sentences = [
        f"In train and {split} alike, byte for byte: {len(pairs)} ({few(pairs)}); {split} is too easy."
        for split, pairs in sorted(leaks.items())
    ]
    if labels:
        sentences.append(f"With two labels, byte for byte the same image: {len(labels)} ({few(labels)}).")
    return sentences


def _pair(index: ImageIndex, twins: Sequence[Place], one: str | int, other: str | int) -> str:
    """Return the names of two duplicates from two splits or with two labels."""
    first, second = (
        next(sample for split, sample in twins if side in (split, sample.label)) for side in (one, other)
    )
    return f"{index.relative(first.path)} = {index.relative(second.path)}"
