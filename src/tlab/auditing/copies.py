"""All copies among the images of a run's data, what to say of them, and which of them to leave out."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlab.auditing.duplicates import Pair, exact_duplicates, near_duplicates, spanning_pairs
from tlab.auditing.finding import Finding
from tlab.auditing.images import SPLITS, AuditedImages, rank
from tlab.core.text import counted


@dataclass(frozen=True)
class Copies:
    """Images that are there more than once.

    Attributes:
        exact: Groups of rows with the same bytes, in the order in which they are kept.
        near: Pairs of which one is a changed copy of the other, one for each copy; of images with the same bytes
            the first one stands for all.
        remarks: Sentences about what was not compared.
    """

    exact: list[list[int]]
    near: list[Pair]
    remarks: list[str]


def find_copies(images: AuditedImages, neighbors: NDArray[np.int64] | None) -> Copies:
    """Return the copies.

    Args:
        images: The images.
        neighbors: Nearest neighbors of each by features, `N k`; None where there are none.
    """
    exact = exact_duplicates([image.digest for image in images.measures])
    first_of = {row: rows[0] for rows in exact for row in rows}
    single = np.array([row for row in range(len(images.names)) if first_of.get(row, row) == row])
    place = np.full(len(images.names), -1)
    place[single] = np.arange(len(single))
    first = np.array([first_of.get(row, row) for row in range(len(images.names))])
    near_rows = None if neighbors is None else place[first[neighbors[single]]]
    gray = np.stack([images.measures[row].gray for row in single])
    pairs, left_out = near_duplicates(gray, near_rows)
    pairs = [Pair(int(single[pair.first]), int(single[pair.second]), pair.score) for pair in pairs]
    pairs.sort(key=lambda pair: (-_weight(images, pair.first, pair.second), -pair.score))
    remarks = []
    if left_out:
        remarks.append(
            f"{counted(left_out, 'pair')} of images with similar outlines were not compared, since so many are "
            "similar; the most similar ones were."
        )
    return Copies(exact, spanning_pairs(pairs, len(images.names)), remarks)


def findings_of(copies: Copies, images: AuditedImages) -> Iterator[Finding]:
    """Yield a finding for each copy; those in two splits or under two labels have the highest scores."""
    for first, *others in copies.exact:
        for row in others:
            yield _pair(images, "exact_duplicate", row, first, 1.0, "byte for byte the same")
    for pair in copies.near:
        one, other = sorted((pair.first, pair.second), reverse=True)  # the first is the one to keep
        how = f"the same picture, {pair.score:.0%} alike once aligned"
        yield _pair(images, "near_duplicate", one, other, pair.score, how)


def _weight(images: AuditedImages, one: int, other: int) -> float:
    """Return what two copies do wrong: being in two splits, and under two labels, a quarter each."""
    return 0.25 * (images.splits[one] != images.splits[other]) + 0.25 * (images.labels[one] != images.labels[other])


def _pair(images: AuditedImages, kind: str, one: int, other: int, alike: float, how: str) -> Finding:
    splits = list(dict.fromkeys((images.splits[one], images.splits[other])))
    labels = list(dict.fromkeys((images.label(one), images.label(other))))
    reason = how
    if len(splits) > 1:
        reason += f", in {' and '.join(splits)}"
    if len(labels) > 1:
        reason += f", under two labels ({' and '.join(labels)})"
    score = 0.5 * alike + _weight(images, one, other)
    names = images.names[one], images.names[other]
    return Finding(kind, *names, "/".join(splits), "/".join(labels), score=score, reason=reason)


def to_leave_out(copies: Copies, images: AuditedImages) -> dict[str, set[int]]:
    """Return the rows of copies that a training should do without, by the rule.

    - Of images with the same bytes one is kept, the one of test before that of val before that of train, so that
      nothing that is measured is trained on.
    - Of images with the same bytes under two labels none is kept: nobody knows which label is right.
    - Of changed copies in several splits those of the split that comes first in the same order are kept.
    - A further test (`data.tests`) stays as it is: what train and val share with it leaves them, as what they share
      with test does; what test shares with it is measured in both.

    Returns:
        Reason -> rows, none of them in a further test.
    """
    same, in_test, contradicting, changed, changed_in_test = (set[int]() for _ in range(5))
    for group in copies.exact:
        own = [row for row in group if images.splits[row] in SPLITS]
        if len({images.labels[row] for row in group}) > 1:
            contradicting.update(own)
        elif own and rank(images.splits[own[0]]) > rank(images.splits[group[0]]):  # which is in a further test
            in_test.update(own)
        else:
            same.update(own[1:])
    for alike in clusters(pair[:2] for pair in copies.near):
        splits = {images.splits[row] for row in alike}
        best = min(map(rank, splits))
        only_further = best == 0 and "test" not in splits
        (changed_in_test if only_further else changed).update(
            row for row in alike if rank(images.splits[row]) > best
        )
    gone = same | in_test | contradicting
    return {
        "with the same bytes as another": same,
        "with the same bytes as one of data.tests, whose folder stays as it is": in_test,
        "with the same bytes under two labels": contradicting,
        "with a changed copy in another split": changed - gone,
        "with a changed copy in data.tests, whose folder stays as it is": changed_in_test - gone,
    }


def needed(copies: Mapping[str, Collection[int]], images: AuditedImages) -> set[int]:
    """Return the rows that have to stay, since nothing else would be left of their class in their split.

    Of such a class those stay that have the last of the reasons: changed copies, all of which may be pictures that
    are only alike, before images with the same bytes.

    Args:
        copies: What `to_leave_out` returns.
        images: The images.
    """
    places = list(zip(images.splits, images.labels.tolist(), strict=True))
    gone = set[int]().union(*copies.values())
    emptied = {places[row] for row in gone} - {place for row, place in enumerate(places) if row not in gone}
    kept: set[int] = set()
    for rows in [*copies.values()][::-1]:
        staying = {row for row in rows if places[row] in emptied}
        kept |= staying
        emptied -= {places[row] for row in staying}
    return kept


def clusters(pairs: Iterable[tuple[int, int]]) -> list[set[int]]:
    """Return the sets of rows that pairs connect."""
    cluster_of: dict[int, set[int]] = {}
    for one, other in pairs:
        joined = cluster_of.get(one, {one}) | cluster_of.get(other, {other})
        cluster_of |= dict.fromkeys(joined, joined)
    return list({id(rows): rows for rows in cluster_of.values()}.values())
