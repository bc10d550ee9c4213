"""Means over seeds, intervals, paired differences, and the correction for many comparisons."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

LEVEL = 0.95  # confidence level of every interval
SIGNIFICANT = 0.05  # corrected p-values below this count as a difference
ALIKE = 1e-6  # values closer than this share of the largest are equal: metrics come in single precision

INTERVAL_NAMES = {"t": "t", "bootstrap": "bootstrap BCa"}
TEST_NAMES = {"t": "paired t test", "wilcoxon": "Wilcoxon signed-rank test"}


@dataclass(frozen=True)
class Summary:
    """A sample of one value per seed.

    Attributes:
        n: Number of values.
        mean: Mean of the values.
        sd: Standard deviation, with n - 1 in the denominator; None for n = 1.
        low: Lower end of the 95 % interval of the mean; None where n = 1, the mean where all are equal.
        high: Upper end, likewise.
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None

    @property
    def all_equal(self) -> bool:
        """Whether there are several values without any spread, which do not tell how far others may be off."""
        return self.n > 1 and self.low == self.high


@dataclass(frozen=True)
class Difference:
    """How far a setting lies behind the best, over the seeds that both have.

    Attributes:
        summary: Summary of the differences, positive where the best is better; None without a common seed.
        p: Two-sided p-value of no difference; None with less than two common seeds, and where the differences are
            all the same but not zero.
        p_corrected: `p` after Holm's correction over all settings compared with the best.
    """

    summary: Summary | None
    p: float | None
    p_corrected: float | None = None


def summarize(values: Sequence[float], interval: str = "t") -> Summary:
    """Return mean, standard deviation and 95 % interval.

    Args:
        values: One per seed, at least one.
        interval: `t`: mean ± t(0.975, n - 1) · sd / √n, which takes the values as normal. `bootstrap`:
            bias-corrected and accelerated (Efron 1987, Better bootstrap confidence intervals), 9999 resamples,
            always the same ones; it takes no shape for granted but is too narrow for a handful of seeds.
    """
    sample = np.asarray(values, dtype=float)
    n, mean = len(sample), float(sample.mean())
    if n < 2:
        return Summary(n, mean, None, None, None)
    sd = float(sample.std(ddof=1))
    if np.ptp(sample) <= ALIKE * np.abs(sample).max():
        return Summary(n, mean, sd, mean, mean)
    from scipy import stats  # a second, which --help need not wait for

    if interval == "t":
        low, high = stats.t.interval(LEVEL, n - 1, mean, stats.sem(sample))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            drawn = stats.bootstrap((sample,), np.mean, confidence_level=LEVEL, rng=np.random.default_rng(0))
        low, high = drawn.confidence_interval
    return Summary(n, mean, sd, float(low), float(high))


def paired_difference(
    first: Mapping[int, float], second: Mapping[int, float], interval: str = "t", test: str = "t"
) -> Difference:
    """Compare two settings seed by seed, first - second: the same seed brings the same split, order and start.

    Args:
        first: Seed -> value of one setting.
        second: Seed -> value of the other; seeds that only one of them has are left out.
        interval: Kind of confidence interval, see `summarize`.
        test: `t` (Student's paired test) or `wilcoxon` (signed ranks, exact; below six seeds it cannot reach 0.05).
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return Difference(None, None)
    differences = np.array([first[seed] - second[seed] for seed in seeds])
    summary = summarize(differences.tolist(), interval)
    scale = max(abs(value) for values in (first, second) for value in values.values())
    p: float | None = None  # without a spread there is nothing to measure the difference by
    if len(seeds) > 1 and np.all(np.abs(differences) <= ALIKE * scale):
        p = 1.0
    elif np.ptp(differences) > ALIKE * scale:
        from scipy import stats

        p = float((stats.ttest_1samp(differences, 0.0) if test == "t" else stats.wilcoxon(differences)).pvalue)
    return Difference(summary, p)


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
