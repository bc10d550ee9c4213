"""The power law of learning curves, fitted with a floor, and the laws that the seeds do not rule out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlab.comparison.statistics import ALIKE, LEVEL

FEWEST = 4  # sizes to fit the three parameters to
EXPONENTS = np.linspace(0.02, 2.0, 199)
STEPS = np.linspace(-1.0, 1.0, 41)  # over which the scales that an exponent allows are looked through
TOLD = 2.0  # exponents are told where the largest that is not ruled out is at most so many times the smallest
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """The law `error(n) = a n^-b + c`, as Rosenfeld et al. (2020, equation 3) have it for the size of the data.

    Attributes:
        a: Scale, at least 0, `R` for one or several laws.
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

    @property
    def is_told(self) -> bool:
        """Whether these laws, of which each fits, agree in their exponents and so in where they end."""
        within = EXPONENTS[0] < self.b.min() and self.b.max() < EXPONENTS[-1]
        return bool(within and self.b.max() <= TOLD * self.b.min())


def fit(sizes: Any, errors: Any) -> PowerLaw:
    """Fit the law by least squares of the relative residuals.

    For each exponent of a grid, `a` and `c` follow from a linear problem of two unknowns, none below 0; so the
    fit has no starting point and no second minimum.

    Args:
        sizes: Numbers of training images, `N`, two or more different ones.
        errors: Errors at these, `N`.
    """
    y, weights = _weighted(errors)
    basis = np.asarray(sizes, dtype=float) ** -EXPONENTS[:, None]  # E N
    slope, _, _ = _lines(basis, y, weights)
    total = weights.sum()
    a = np.maximum(slope, 0.0)
    c = y @ weights / total - a * (basis @ weights) / total
    through_zero = basis @ (y * weights) / (basis**2 @ weights)  # where the floor would lie below it
    a, c = np.where(c < 0, through_zero, a), np.maximum(c, 0.0)
    best = [int(((a[:, None] * basis + c[:, None] - y) ** 2 @ weights).argmin())]
    return PowerLaw(a[best], EXPONENTS[best], c[best])


def compatible(sizes: Any, errors: Any) -> PowerLaw | None:
    """Return the laws that the seeds do not rule out at the 95 % level, the best one first; None without a spread.

    With `L` a law's loss, see `fit`, and `s²` the variance of the `S` seeds about their means over all `N` sizes,
    a law is ruled out where `(L - L_min) S / s²` is above the square of Student's t for `N (S - 1)` degrees of
    freedom (Bates and Watts 1988, Nonlinear Regression Analysis, chapter 6, likelihood regions and profile t). So
    the range of what these laws say counts the noise of the seeds, and how little the sizes tell a slow law
    without a floor from a fast one with a high one.

    Args:
        sizes: As in `fit`.
        errors: Errors of each seed, `S N`.
    """
    errors = np.asarray(errors, dtype=float)
    seeds, places = errors.shape
    y, weights = _weighted(errors.mean(axis=0))
    if seeds < 2 or np.ptp(errors, axis=0).max() <= ALIKE:
        return None
    from scipy import stats  # a second, which --help need not wait for

    freedom = places * (seeds - 1)
    best = fit(sizes, y)
    least = float((best.error(sizes)[0] - y) ** 2 @ weights)
    variance = float(((errors - y) ** 2 @ weights).sum()) / freedom
    allowed = least + variance / seeds * float(stats.t.ppf((1 + LEVEL) / 2, freedom)) ** 2
    basis = np.asarray(sizes, dtype=float) ** -EXPONENTS[:, None]  # E N
    slope, curvature, losses = _lines(basis, y, weights)
    half = np.sqrt(np.maximum(allowed - losses, 0) / curvature)
    a = np.maximum(slope[:, None] + half[:, None] * STEPS, 0.0)  # E A, all that the exponent allows with any floor
    total = weights.sum()
    c = y @ weights / total - a * (basis @ weights / total)[:, None]  # the best floor, wherever it lies
    loss = (a[..., None] * basis[:, None] + c[..., None] - y) ** 2 @ weights  # E A
    room = np.sqrt(np.maximum(allowed - loss, 0) / total)
    kept = (loss <= allowed) & (c + room >= 0)
    a, b, c, room = (np.broadcast_to(each, kept.shape)[kept] for each in (a, EXPONENTS[:, None], c, room))
    floors = [np.maximum(c + sign * room, 0.0) for sign in (0, -1, 1)]
    return PowerLaw(
        np.concatenate([best.a, *[a] * 3]), np.concatenate([best.b, *[b] * 3]), np.concatenate([best.c, *floors])
    )


def _weighted(errors: Any) -> tuple[Floats, Floats]:
    """Return errors and the weights of their squares, with which residuals are relative, `N` each."""
    y = np.asarray(errors, dtype=float)
    return y, 1 / np.maximum(y, 1e-3) ** 2


def _lines(basis: Floats, y: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Return slope, curvature of the loss in it, and loss of each exponent's line `y = slope basis + c`, `E`."""
    total = weights.sum()
    centered, rest = basis - (basis @ weights / total)[:, None], y - y @ weights / total
    curvature = centered**2 @ weights
    slope = centered @ (rest * weights) / curvature
    return slope, curvature, (rest - slope[:, None] * centered) ** 2 @ weights
