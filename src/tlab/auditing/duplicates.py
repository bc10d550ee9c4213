"""Copies of an image: the same bytes, or resized, recompressed, brightened, flipped, turned or cropped a little."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from tlab.auditing.image_hash import (
    Coefficients,
    close_pairs,
    closest_orientation,
    low_frequencies,
    oriented_pixels,
)
from tlab.core.hardware import cpus_per_process, single_threaded, thread_pool
from tlab.data import progress_bar

MOST_BITS = 64  # of 255 in which the hashes of two candidates may differ; two of three crops by 5 % differ in more
PAIRS_EACH = 10  # candidates for each image, by hash
LEAST_COSINE = 0.6  # of the lowest frequencies of two candidates; crops by 5 % have 0.7 and more
LEAST_CORRELATION, LEAST_DETAIL = 0.95, 0.8  # of aligned pixels, and of their detail: what a blur leaves out
MOST_SCALED, MOST_SHEARED, MOST_MOVED = 0.09, 0.03, 6.0  # of an alignment; the last in pixels of 64
FLAT = 3.0  # standard deviation in gray levels below which nothing can be aligned
DETAIL = 3.0  # standard deviation of the blur, in pixels


class Pair(NamedTuple):
    """Two images, by their rows, and how much they are alike, in 0..1."""

    first: int
    second: int
    score: float


def exact_duplicates(digests: Sequence[str]) -> list[list[int]]:
    """Return the groups of rows with the same content, in order."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        groups[digest].append(row)
    return [rows for rows in groups.values() if len(rows) > 1]


def near_duplicates(gray: NDArray[np.uint8], neighbors: NDArray[np.int64] | None) -> tuple[list[Pair], int]:
    """Return the pairs of images of which one is a copy of the other, changed a little.

    Candidates are pairs with close hashes, and the nearest neighbors by features of a network, which find crops. Of
    each the pixels are aligned by an affine map, which must be close to none, and compared (Evangelidis and
    Psarakis 2008, "Parametric image alignment using enhanced correlation coefficient maximization").

    Args:
        gray: The images, `N 64 64`, uint8.
        neighbors: Rows of each image's nearest neighbors, `N k`, -1 for none; None where there are no features.

    Returns:
        The pairs; number of candidates that were too many.
    """
    has_content = np.flatnonzero(gray.std(axis=(1, 2)) >= FLAT)
    coefficients = low_frequencies(gray[has_content])
    close, left_out = close_pairs(coefficients, MOST_BITS, PAIRS_EACH * len(has_content))
    candidates = {*map(tuple, has_content[close].tolist())}
    if neighbors is not None:
        there = set(has_content.tolist())
        for row in there:
            others = there.intersection(neighbors[row].tolist()) - {row}
            candidates |= {(min(row, other), max(row, other)) for other in others}
    pairs = np.array(sorted(candidates), np.int64).reshape(-1, 2)
    place = np.searchsorted(has_content, pairs)
    pairs, orientations = _plausible(pairs, coefficients, place)

    def confirmed(number: int) -> Pair | None:
        first, second = pairs[number]
        score = aligned_score(oriented_pixels(gray[first], orientations[number]), gray[second])
        return Pair(int(first), int(second), score) if score else None

    with single_threaded(), thread_pool(cpus_per_process()) as pool:
        results = progress_bar.shown(pool.map(confirmed, range(len(pairs))), "Comparing pairs", len(pairs))
        return [pair for pair in results if pair is not None], left_out


def _plausible(
    pairs: NDArray[np.int64], coefficients: Coefficients, place: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs whose low frequencies are alike, and the orientation of the first of each."""
    kept, turned = [pairs[:0]], [np.empty(0, np.int64)]
    for start in range(0, len(pairs), 4096):
        block = place[start : start + 4096]
        orientation, cosine = closest_orientation(coefficients[block[:, 0]], coefficients[block[:, 1]])
        alike = cosine >= LEAST_COSINE
        kept.append(pairs[start : start + 4096][alike])
        turned.append(orientation[alike])
    return np.concatenate(kept), np.concatenate(turned)


def aligned_score(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Return how much two gray images `64 64` are alike once aligned, whatever their brightness and contrast.

    Either may be the one that is cropped.

    Returns:
        The smaller one of the correlations of the pixels and of their detail, in 0..1; 0 where they are no copies.
    """
    return max(_aligned_score(first, second), _aligned_score(second, first))


def _aligned_score(moved: NDArray[np.uint8], fixed: NDArray[np.uint8]) -> float:
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-4)
    start, whole = np.eye(2, 3, dtype=np.float32), np.ones_like(fixed)
    try:
        _, map_ = cv2.findTransformECC(fixed, moved, start, cv2.MOTION_AFFINE, criteria, whole, 5)
    except cv2.error:  # it does not converge
        return 0.0
    scaled, sheared = np.abs(np.diag(map_) - 1).max(), max(abs(map_[0, 1]), abs(map_[1, 0]))
    if scaled > MOST_SCALED or sheared > MOST_SHEARED or np.abs(map_[:, 2]).max() > MOST_MOVED:
        return 0.0
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    inside = cv2.warpAffine(whole, map_, fixed.shape, flags=how) > 0
    x = cv2.warpAffine(moved.astype(np.float32), map_, fixed.shape, flags=how)
    y = fixed.astype(np.float32)
    coarse = _correlation(x[inside], y[inside])
    fine = _correlation(*((each - cv2.GaussianBlur(each, (0, 0), DETAIL))[inside] for each in (x, y)))
    return min(coarse, fine) if coarse >= LEAST_CORRELATION and fine >= LEAST_DETAIL else 0.0


def _correlation(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Return Pearson's correlation; 0 where one is the same everywhere."""
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / max(float(np.sqrt((x @ x) * (y @ y))), 1e-6))


def spanning_pairs(pairs: Iterable[Pair], count: int) -> list[Pair]:
    """Return as few pairs as connect the same images, those that come first (Kruskal 1956): one for each copy.

    Args:
        pairs: The pairs, the most important ones first.
        count: Number of images.
    """
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    kept = []
    for pair in pairs:
        one, other = root(pair.first), root(pair.second)
        if one != other:
            parent[one] = other
            kept.append(pair)
    return kept
