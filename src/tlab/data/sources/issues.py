"""Readable files that look out of place: an odd format, or duplicates across splits or labels."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter

from tlab.config.overrides import exclude_argument
from tlab.core.text import counted, few
from tlab.data.decode_options import EXTRA_BYTES
from tlab.data.sources.folder import ImageIndex
from tlab.data.sources.samples import Sample
from tlab.data.sources.verify import FileCheck

MANY = 50  # number of files of the usual format from which another format can be odd
MOST = 20  # names in an argument to type
RARE = 0.01  # largest share of files of an odd format

Place = tuple[str, Sample]  # split, and file with label


def find_issues(index: ImageIndex, verdicts: Mapping[str, FileCheck]) -> list[str]:
    """Return short sentences about files that can be read but deserve a look.

    Args:
        index: Index of the readable files.
        verdicts: `Sample.file` -> `FileCheck` of each of them.
    """
    formats = Counter(verdicts[sample.file].format for samples in index.splits.values() for sample in samples)
    copies: dict[str, list[Place]] = defaultdict(list)
    for split, samples in index.splits.items():
        for sample in samples:
            if digest := verdicts[sample.file].digest:
                copies[digest].append((split, sample))
    return [*_odd_formats(index, formats, verdicts), *_same_content(index, copies), *_damaged(index, verdicts)]


def find_leaks(index: ImageIndex, test: ImageIndex, name: str, verdicts: Mapping[str, FileCheck]) -> list[str]:
    """Return sentences about training images that a further test has too, and its images with two labels.

    Args:
        index: Index of the readable files of a model's own data.
        test: Index of those of the test, which has one split and the same classes.
        name: Name of the test.
        verdicts: `Sample.file` -> `FileCheck` of each of them.
    """
    copies: dict[str, list[Place]] = defaultdict(list)
    (measured,) = test.splits.values()
    for split, samples in (("train", index.splits["train"]), (name, measured)):
        for sample in samples:
            if digest := verdicts[sample.file].digest:
                copies[digest].append((split, sample))
    return _same_content(index, {digest: twins for digest, twins in copies.items() if twins[-1][0] == name})


def _odd_formats(index: ImageIndex, formats: Counter[str], verdicts: Mapping[str, FileCheck]) -> list[str]:
    usual, common = max(formats.items(), key=itemgetter(1), default=("", 0))
    sentences = []
    for kind, number in formats.items():
        if kind == usual or common < MANY or number > max(1, RARE * formats.total()):
            continue
        every = (sample for samples in index.splits.values() for sample in samples)
        names = [index.relative(sample.path) for sample in every if verdicts[sample.file].format == kind]
        what = "it" if len(names) <= MOST else f"the first {MOST}"
        is_are = "is a" if len(names) == 1 else "are"
        sentences.append(
            f"{few(names)} {is_are} {kind} among {common} {usual} files: look whether it belongs "
            f"to the data; {exclude_argument(names[:MOST])} leaves {what} out."
        )
    return sentences


def _damaged(index: ImageIndex, verdicts: Mapping[str, FileCheck]) -> Iterator[str]:
    damaged = [s for samples in index.splits.values() for s in samples if verdicts[s.file].damage == EXTRA_BYTES]
    if names := [index.relative(sample.path) for sample in damaged]:
        what = "them" if len(names) <= MOST else f"the first {MOST}"
        yield (
            f"{counted(names, 'image has', 'images have')} {EXTRA_BYTES} ({few(names)}): look at "
            f"{'it' if len(names) == 1 else 'them'}; {exclude_argument(names[:MOST])} leaves {what} out."
        )


def _same_content(index: ImageIndex, copies: dict[str, list[Place]]) -> list[str]:
    leaks: dict[str, list[str]] = defaultdict(list)
    labels: list[str] = []
    for twins in (found for found in copies.values() if len(found) > 1):
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
    sides = [next(sample for split, sample in twins if side in (split, sample.label)) for side in (one, other)]
    return " = ".join(index.relative(sample.path) for sample in sides)
