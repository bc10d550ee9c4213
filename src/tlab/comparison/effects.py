"""Which factor matters: its mean effect over the grid of settings, and its share of the differences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlab.comparison.factors import Factor
from tlab.comparison.statistics import LEVEL, Summary

MOST_LEVELS = 8  # a number with more levels is cut into ranges
RANGES = 4


@dataclass(frozen=True)
class Level:
    """One level of a factor.

    Attributes:
        name: Its value, or range of values.
        mean: Mean of the metric at this level, the other factors held in balance.
        half_width: Half of its 95 % interval, from the spread between seeds or folds; None without any.
        settings: Number of settings at this level.
    """

    name: str
    mean: float
    half_width: float | None
    settings: int


@dataclass(frozen=True)
class Effect:
    """One factor.

    Attributes:
        factor: The factor's name.
        levels: Its levels, in the factor's order.
        range: Highest mean of a level minus the lowest.
        share: Share of the sum of squares between settings that no other factor explains, 0 to 1.
        separable: False where the settings do not tell this factor from another one; its means are then raw.
    """

    factor: str
    levels: tuple[Level, ...]
    range: float
    share: float
    separable: bool


@dataclass(frozen=True)
class Effects:
    """All factors, the one with the largest share first.

    Attributes:
        factors: Main effect of each factor.
        rest: Share of the sum of squares that main effects leave to interactions.
        seed_sd: Standard deviation between seeds or folds of one setting, pooled; None without several.
    """

    factors: tuple[Effect, ...]
    rest: float
    seed_sd: float | None


def main_effects(
    factors: Sequence[Factor], settings: Sequence[tuple[str, ...]], summaries: Sequence[Summary]
) -> Effects | None:
    """Return what each factor does on average, or None where nothing varies.

    An additive model is fitted to the means of the settings by least squares, each setting counting once. In a full
    grid the means are those of the levels and the shares those of an analysis of variance; in one with gaps they
    are adjusted (least-squares means; Searle, Speed and Milliken 1980, Population marginal means in the linear
    model) and a share is what the fit loses without the factor (type II sum of squares).

    Args:
        factors: What differs between the settings.
        settings: Levels in the order of `factors`, one for each setting with a result.
        summaries: Summaries of the metric, in the same order.
    """
    coded = [(factor.name, *_coded(factor, [levels[i] for levels in settings])) for i, factor in enumerate(factors)]
    kept = [(name, levels, at) for name, levels, at in coded if len(levels) > 1]
    means = np.array([summary.mean for summary in summaries])
    total = float(((means - means.mean()) ** 2).sum()) if kept else 0.0
    if total <= 1e-18:
        return None
    blocks = [_contrasts(len(levels))[at] for _, levels, at in kept]
    design, residual = _fit(blocks, means)
    seed_sd, half_of_one = _seed_noise(summaries)
    noise = np.array([summary.noise for summary in summaries])
    effects = []
    for place, (name, names, at) in enumerate(kept):
        others, left = _fit(blocks[:place] + blocks[place + 1 :], means)
        separable = bool(np.linalg.matrix_rank(design) - np.linalg.matrix_rank(others) == len(names) - 1)
        if separable:
            start = 1 + sum(block.shape[1] for block in blocks[:place])
            weights = _fitted_weights(design, start, len(names))
        else:
            weights = np.eye(len(names))[at].T / np.bincount(at)[:, None]
        own = weights @ means
        halves = [None] * len(own)
        if half_of_one is not None:
            halves = (half_of_one * np.sqrt((weights**2 * noise).sum(axis=1))).tolist()
        levels = tuple(map(Level, names, own.tolist(), halves, np.bincount(at).tolist()))
        share = max(0.0, (left - residual) / total)
        effects.append(Effect(name, levels, float(np.ptp(own)), share, separable))
    effects.sort(key=lambda effect: (-effect.share, -effect.range))
    return Effects(tuple(effects), residual / total, seed_sd)


def _coded(factor: Factor, values: list[str]) -> tuple[list[str], np.ndarray]:
    """Return the levels that occur and each setting's place among them; many numbers are cut into ranges."""
    names = [level for level in factor.levels if level in values]
    if not factor.is_number or len(names) <= MOST_LEVELS:
        return names, np.array([names.index(value) for value in values])
    numbers = np.array([float(value) for value in values])
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, RANGES + 1)[1:-1]))
    used, at = np.unique(np.searchsorted(edges, numbers), return_inverse=True)
    parts = [numbers[at == i] for i in range(len(used))]
    return [f"{part.min():.2g}–{part.max():.2g}" for part in parts], at


def _contrasts(count: int) -> np.ndarray:
    """Return a row per level, of columns that sum to zero over the levels: `count, count - 1`."""
    return np.vstack([np.eye(count - 1), -np.ones(count - 1)])


def _fit(blocks: Sequence[np.ndarray], means: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the design of these columns and a constant one, and the sum of squares that it leaves."""
    design = np.hstack([np.ones((len(means), 1)), *blocks])
    fitted = design @ (np.linalg.pinv(design) @ means)
    return design, float(((means - fitted) ** 2).sum())


def _fitted_weights(design: np.ndarray, start: int, count: int) -> np.ndarray:
    """Return how each setting's mean enters each level's: the fit at that level, the mean over all other levels."""
    rows = np.zeros((count, design.shape[1]))
    rows[:, 0] = 1.0
    rows[:, start : start + count - 1] = _contrasts(count)
    return rows @ np.linalg.pinv(design)


def _seed_noise(summaries: Sequence[Summary]) -> tuple[float | None, float | None]:
    """Return the pooled standard deviation between seeds, and half the interval of a single seed's value.

    There is no interval where the seeds of every setting agree.
    """
    repeated = [(summary.n - 1, summary.sd) for summary in summaries if summary.sd is not None]
    freedom = sum(n for n, _ in repeated)
    if not freedom:
        return None, None
    from scipy import stats

    noise = float(np.sqrt(sum(n * sd**2 for n, sd in repeated) / freedom))
    if all(summary.all_equal for summary in summaries if summary.sd is not None):
        return noise, None
    return noise, float(stats.t.ppf((1 + LEVEL) / 2, freedom) * noise)
