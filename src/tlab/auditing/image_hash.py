"""A hash of an image's low frequencies, by which copies are found, also flipped and turned ones."""

import numpy as np
import torch
from numpy.typing import NDArray

from tlab.core.hardware import single_threaded

SIDE = 16  # frequencies of each axis: 256 bits, of which the first, of the mean, is the same for all
BITS = SIDE * SIDE - 1
PAIRS = 2**24  # distances that are computed at once: 64 MB
ORIENTATIONS = tuple((turned, upside, mirrored) for turned in (0, 1) for upside in (0, 1) for mirrored in (0, 1))

Coefficients = NDArray[np.float32]


def low_frequencies(gray_NSS: NDArray[np.uint8]) -> Coefficients:
    """Return the lowest coefficients of the discrete cosine transform (DCT-II) of square gray images.

    Args:
        gray_NSS: The images, `N S S`, uint8.

    Returns:
        `N 16 16`, float32, by the vertical and the horizontal frequency; that of the mean is 0, and the square of
        the others' sum the energy of an image of these frequencies.
    """
    size = gray_NSS.shape[1]
    steps = np.pi / size * (np.arange(size) + 0.5)
    cosines = np.cos(np.arange(SIDE)[:, None] * steps) * np.sqrt(2 / size)
    cosines[0] /= np.sqrt(2)
    basis = torch.from_numpy(cosines.astype(np.float32))
    found = np.empty((len(gray_NSS), SIDE, SIDE), np.float32)
    with single_threaded():
        for start in range(0, len(gray_NSS), 1024):
            block = torch.from_numpy(gray_NSS[start : start + 1024]).float()
            found[start : start + 1024] = (basis @ block @ basis.T).numpy()
    found[:, 0, 0] = 0
    return found


def oriented(coefficients: Coefficients, orientation: int) -> Coefficients:
    """Return the coefficients that the images would have flipped or turned, without touching a pixel.

    A flip changes the sign of every odd frequency of its axis; transposition exchanges the axes.

    Args:
        coefficients: `N 16 16`.
        orientation: Place in `ORIENTATIONS`; 0 changes nothing.
    """
    turned, upside, mirrored = ORIENTATIONS[orientation]
    signs = 1 - 2 * (np.arange(SIDE) % 2)
    found = coefficients.transpose(0, 2, 1) if turned else coefficients
    if upside:
        found = found * signs[:, None].astype(np.float32)
    if mirrored:
        found = found * signs.astype(np.float32)
    return found


def oriented_pixels(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return a square image `S S` as `oriented` means it."""
    turned, upside, mirrored = ORIENTATIONS[orientation]
    image = image.T if turned else image
    return np.ascontiguousarray(image[:: -1 if upside else 1, :: -1 if mirrored else 1])


def closest_orientation(first: Coefficients, second: Coefficients) -> tuple[NDArray[np.int64], Coefficients]:
    """Return for each of M pairs of images the orientation of the first in which it is most like the second.

    Args:
        first: `M 16 16`.
        second: `M 16 16`.

    Returns:
        Place in `ORIENTATIONS`, `M`; cosine of the lowest 8 x 8 coefficients, `M`, float32, which a crop by a few
        percent changes less than the hash.
    """
    half = SIDE // 2
    y = second[:, :half, :half].reshape(len(second), -1)
    cosines = np.empty((len(ORIENTATIONS), len(first)), np.float32)
    for orientation in range(len(ORIENTATIONS)):
        x = oriented(first, orientation)[:, :half, :half].reshape(len(first), -1)
        lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
        cosines[orientation] = np.einsum("md,md->m", x, y) / np.maximum(lengths, 1e-6)
    return cosines.argmax(axis=0), cosines.max(axis=0)


def close_pairs(coefficients: Coefficients, most_bits: int, most_pairs: int) -> tuple[NDArray[np.int64], int]:
    """Return pairs of images whose hashes differ in few bits, in any of the eight orientations.

    The hash is the sign of each coefficient. N² / 2 products of hashes are computed, block by block: seconds for
    10,000 images on a core.

    Args:
        coefficients: `N 16 16`, see `low_frequencies`.
        most_bits: Largest Hamming distance; 127 is usual for two images that have nothing in common.
        most_pairs: Largest number of pairs; the closest ones are kept.

    Returns:
        Rows of the two images, `M 2`, the first smaller than the second; number of pairs that were too many.
    """
    count = len(coefficients)
    signs = _signs(coefficients)
    each = [_signs(oriented(coefficients, orientation)) for orientation in range(len(ORIENTATIONS))]
    rows = max(1, PAIRS // max(1, count))
    kept, distances, left_out = np.empty((0, 2), np.int64), np.empty(0, np.float32), 0
    for start in range(0, count, rows):
        best = each[0][start : start + rows] @ signs[start:].T
        for turned in each[1:]:
            torch.maximum(best, turned[start : start + rows] @ signs[start:].T, out=best)
        # Each pair once, and none with itself
        best.masked_fill_(torch.ones_like(best, dtype=torch.bool).tril_(), -BITS)
        first, second = torch.nonzero(best >= BITS - 2 * most_bits, as_tuple=True)
        kept = np.concatenate([kept, (torch.stack([first, second], dim=1) + start).numpy()])
        distances = np.concatenate([distances, ((BITS - best[first, second]) / 2).numpy()])
        if len(kept) > most_pairs:
            closest = np.argsort(distances, kind="stable")[:most_pairs]
            left_out += len(kept) - most_pairs
            kept, distances = kept[closest], distances[closest]
    return kept, left_out


def _signs(coefficients: Coefficients) -> torch.Tensor:
    """Return the bits as +1 and -1, 0 for the mean: `N 256`, float32."""
    signs = np.where(coefficients.reshape(-1, SIDE * SIDE) > 0, np.float32(1), np.float32(-1))
    signs[:, 0] = 0
    return torch.from_numpy(signs)
