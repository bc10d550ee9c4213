"""The power law of learning curves, fitted with a floor, and what it says of more images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST = 4  # sizes to fit the three parameters to
EXPONENTS = np.linspace(0.02, 2.0, 199)
RESAMPLES = 2000
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """The law `error(n) = a n^-b + c`, as Rosenfeld et al. (2020, equation 3) have it for the size of the data.

    Attributes:
        a: Scale, at least 0, `R` for one or several fits.
        b: Exponent, `R`.
        c: Floor, at least 0, `R`.
    """

    a: Floats
    b: Floats
    c: Floats

    def error(self, sizes: Any) -> Floats:
        """Return the error at each of `N` sizes, `R N`."""
        n = np.asarray(sizes, dtype=float)
        return self.a[:, None] * n ** -self.b[:, None] + self.c[:, None]


def fit(sizes: Any, errors: Any) -> PowerLaw:
    """Fit the law by least squares of the relative residuals.

    For each exponent of a grid, `a` and `c` follow from a linear problem of two unknowns, none below 0; so the
    fit has no starting point and no second minimum.

    Args:
        sizes: Numbers of training images, `N`, two or more different ones.
        errors: Errors at these, `R N`, of `R` fits.
    """
    errors = np.atleast_2d(np.asarray(errors, dtype=float))
    weights = 1 / np.maximum(errors, 1e-3)  # R N
    basis = np.asarray(sizes, dtype=float) ** -EXPONENTS[:, None]  # E N
    y = errors * weights
    squares = np.einsum("en,rn->re", basis**2, weights**2)
    cross = np.einsum("en,rn->re", basis, weights**2)
    ones = (weights**2).sum(axis=1)[:, None]
    of_basis, of_ones = np.einsum("en,rn->re", basis, weights * y), (weights * y).sum(axis=1)[:, None]
    determinant = squares * ones - cross**2
    inner = (of_basis * ones - of_ones * cross) / determinant, (of_ones * squares - of_basis * cross) / determinant
    zero = np.zeros_like(cross)
    edges = (of_basis / squares, zero), (zero, of_ones / ones + zero)
    fits = [(np.maximum(a, 0.0), np.maximum(c, 0.0)) for a, c in (inner, *edges)]  # clipped ones lose to the edges
    losses = np.stack([_loss(a, c, basis, y, weights) for a, c in fits])  # 3 R E
    which, exponent = np.unravel_index(
        losses.transpose(1, 0, 2).reshape(len(errors), -1).argmin(axis=1), losses[:, 0].shape
    )
    rows = np.arange(len(errors))
    a, c = (np.stack(each)[which, rows, exponent] for each in zip(*fits, strict=True))
    return PowerLaw(a, EXPONENTS[exponent], c)


def _loss(a: Floats, c: Floats, basis: Floats, y: Floats, weights: Floats) -> Floats:
    fitted = a[:, :, None] * basis + c[:, :, None]  # R E N
    return ((fitted * weights[:, None] - y[:, None]) ** 2).sum(axis=2)


def resampled(sizes: Any, errors: Any) -> PowerLaw | None:
    """Return the law fitted to means over seeds drawn with replacement; None for one seed.

    Args:
        sizes: Numbers of training images, `N`.
        errors: Errors of each seed, `S N`.
    """
    errors = np.asarray(errors, dtype=float)
    if len(errors) < 2:
        return None
    drawn = np.random.default_rng(0).integers(0, len(errors), (RESAMPLES, len(errors)))
    means, counts = np.unique(errors[drawn].mean(axis=1), axis=0, return_counts=True)
    law = fit(sizes, means)
    return PowerLaw(*(np.repeat(each, counts) for each in (law.a, law.b, law.c)))
