"""Means over seeds or folds, intervals, paired differences, and the correction for many comparisons."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

import numpy as np

LEVEL = 0.95  # confidence level of every interval
SIGNIFICANT = 0.05  # corrected p-values below this count as a difference
ALIKE = 1e-6  # values closer than this share of the largest are equal: metrics come in single precision

INTERVAL_NAMES = {"t": "t", "bootstrap": "bootstrap BCa"}
TEST_NAMES = {"t": "paired t test", "wilcoxon": "Wilcoxon signed-rank test"}


R = TypeVar("R")  # what values are paired by


@dataclass(frozen=True)
class Summary:
    """A sample of one value per seed, or per fold.

    Attributes:
        n: Number of values.
        mean: Mean of the values.
        sd: Standard deviation, with n - 1 in the denominator; None for n = 1.
        low: Lower end of the 95 % interval of the mean; None where n = 1, the mean where all are equal.
        high: Upper end, likewise.
        overlap: Of folds, validation images as a multiple of the training images that they share, else 0.
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    overlap: float = 0.0

    @property
    def noise(self) -> float:
        """The variance of the mean as a multiple of the variance of one value, see `summarize`."""
        return 1 / self.n + self.overlap

    @property
    def all_equal(self) -> bool:
        """Whether there are several values without any spread, which do not tell how far others may be off."""
        return self.n > 1 and self.low == self.high


@dataclass(frozen=True)
class Difference:
    """How far a setting lies behind the best, over the seeds or folds that both have.

    Attributes:
        summary: Summary of the differences, positive where the best is better; None without a common one.
        p: Two-sided p-value of no difference; None with less than two common ones, and where the differences are
            all the same but not zero.
        p_corrected: `p` after Holm's correction over all settings compared with the best.
    """

    summary: Summary | None
    p: float | None
    p_corrected: float | None = None


def summarize(values: Sequence[float], interval: str = "t", overlap: float = 0.0) -> Summary:
    r"""Return mean, standard deviation and 95 % interval.

    Values of folds are not independent, since any two share training images. So the variance of their mean is
    taken as $\left(\frac1n + \frac{n_2}{n_1}\right) \hat\sigma^2$, with $n_1$ training and $n_2$ validation images
    of a fold and $\hat\sigma$ the standard deviation of the $n$ values (Nadeau and Bengio 2003, Inference for the
    generalization error, corrected resampled t test).

    Args:
        values: One per seed or fold, at least one.
        interval: `t`: mean ± t(0.975, n - 1) · sd · √(1/n + n₂/n₁), which takes the values as normal. `bootstrap`:
            bias-corrected and accelerated (Efron 1987, Better bootstrap confidence intervals), 9999 resamples,
            always the same ones; it takes no shape for granted but is too narrow for a handful of seeds, and for
            folds, of whose overlap it knows nothing.
        overlap: n₂/n₁ of folds; 0 for independent values.
    """
    sample = np.asarray(values, dtype=float)
    n, mean = len(sample), float(sample.mean())
    if n < 2:
        return Summary(n, mean, None, None, None, overlap)
    sd = float(sample.std(ddof=1))
    if np.ptp(sample) <= ALIKE * np.abs(sample).max():
        return Summary(n, mean, sd, mean, mean, overlap)
    from scipy import stats  # a second, which --help need not wait for

    if interval == "t":
        low, high = stats.t.interval(LEVEL, n - 1, mean, sd * np.sqrt(1 / n + overlap))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            drawn = stats.bootstrap((sample,), np.mean, confidence_level=LEVEL, rng=np.random.default_rng(0))
        low, high = drawn.confidence_interval
    return Summary(n, mean, sd, float(low), float(high), overlap)


def paired_difference(
    first: Mapping[R, float],
    second: Mapping[R, float],
    interval: str = "t",
    test: str = "t",
    overlap: float = 0.0,
) -> Difference:
    r"""Compare two settings seed by seed or fold by fold, first - second.

    The same seed brings the same split, order and start, and the same fold the same images. Of folds the t test is
    the corrected resampled one (Nadeau and Bengio 2003, see `summarize`):
    $t = \bar d \big/ \sqrt{\left(\frac1n + \frac{n_2}{n_1}\right) \hat\sigma_d^2}$ with $n - 1$ degrees of freedom.

    Args:
        first: Seed, or seed and fold -> value of one setting.
        second: The same of the other; what only one of them has is left out.
        interval: Kind of confidence interval, see `summarize`.
        test: `t` (Student's paired test) or `wilcoxon` (signed ranks, exact; below six seeds it cannot reach 0.05,
            and of the overlap of folds it knows nothing).
        overlap: As in `summarize`.
    """
    common = first.keys() & second.keys()
    if not common:
        return Difference(None, None)
    differences = np.array([first[each] - second[each] for each in first if each in common])
    summary = summarize(differences.tolist(), interval, overlap)
    scale = max(abs(value) for values in (first, second) for value in values.values())
    p: float | None = None  # without a spread there is nothing to measure the difference by
    if len(common) > 1 and np.all(np.abs(differences) <= ALIKE * scale):
        p = 1.0
    elif np.ptp(differences) > ALIKE * scale:
        from scipy import stats

        t = summary.mean / (differences.std(ddof=1) * np.sqrt(summary.noise))
        of_t = 2 * stats.t.sf(abs(t), len(common) - 1)
        p = float(of_t if test == "t" else stats.wilcoxon(differences).pvalue)
    return Difference(summary, p)


def least_p(first: Mapping[R, float], second: Mapping[R, float], images: Mapping[R, float]) -> float:
    """Return the p-value below which so few images cannot bring a difference of two accuracies.

    It is that of the exact test of McNemar (1947, Note on the sampling error of the difference between correlated
    proportions), if every image on which two settings differ spoke for the same one: the most that their
    accuracies allow.

    Args:
        first: Seed, or seed and fold -> accuracy of one setting.
        second: The same of the other.
        images: The same -> number of its images that no other one has.
    """
    differing = abs(sum((first[each] - second[each]) * number for each, number in images.items()))
    return min(1.0, 2 ** (1 - round(differing)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for their number.

    The chance of even one false positive among all comparisons stays below their significance level
    (Holm 1979, A simple sequentially rejective multiple test procedure). None stays None, and does not count.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[place] = largest
    return corrected


def spread(groups: Iterable[Iterable[Any]]) -> dict[str, list[float | None]]:
    """Return `mean`, `low` and `high` of the numbers in each group, None where there are none."""
    known = [[value for value in group if isinstance(value, float) and value == value] for group in groups]
    return {
        "mean": [fmean(numbers) if numbers else None for numbers in known],
        "low": [min(numbers, default=None) for numbers in known],
        "high": [max(numbers, default=None) for numbers in known],
    }
