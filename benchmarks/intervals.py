"""95 % intervals of means and of differences, for the few seeds of a benchmark. Standard library only.

They say what another draw of the seeds could give. The images are the same for every run, so what another
validation set would give is not in them.
"""

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A mean and the 95 % interval about it, in the unit of the values."""

    mean: float
    low: float
    high: float

    def percent(self) -> str:
        """The values, given in 0..1, as points of a percentage with their sign."""
        return f"{100 * self.mean:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def t_quantile(freedom: float, coverage: float = 0.95) -> float:
    """The t with P(|T| < t) = coverage for Student's T with `freedom` degrees of freedom, which may be a fraction.

    With x = sqrt(freedom) * tan(a) the density becomes cos(a) ** (freedom - 1), which is integrated by Simpson's
    rule; t is found by bisection of the angle.
    """
    scale = 2 * math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)

    def covered(angle: float, steps: int = 200) -> float:
        height = [math.cos(angle * i / steps) ** (freedom - 1) for i in range(steps + 1)]
        total = height[0] + height[-1] + 4 * sum(height[1:-1:2]) + 2 * sum(height[2:-1:2])
        return scale * total * angle / steps / 3

    low, high = 0.0, math.pi / 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if covered(middle) < coverage else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def of_mean(values: Sequence[float]) -> Interval:
    """The mean of two values or more; for a paired comparison give it the differences."""
    mean = statistics.mean(values)
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def of_difference(a: Sequence[float], b: Sequence[float]) -> Interval:
    """mean(a) - mean(b) of independent values, two or more each, whose spreads may differ (Welch 1947)."""
    mean = statistics.mean(a) - statistics.mean(b)
    error_a, error_b = statistics.variance(a) / len(a), statistics.variance(b) / len(b)
    if error_a + error_b == 0:  # every seed gave the same
        return Interval(mean, mean, mean)
    freedom = (error_a + error_b) ** 2 / (error_a**2 / (len(a) - 1) + error_b**2 / (len(b) - 1))
    half = t_quantile(freedom) * math.sqrt(error_a + error_b)
    return Interval(mean, mean - half, mean + half)


def of_hierarchy(groups: Sequence[Sequence[float]], draws: int = 10_000) -> Interval:
    """The mean over groups of their means; its interval is a bootstrap that draws groups, then members."""
    drawn = random.Random(0)
    means = sorted(
        statistics.mean(
            statistics.mean(drawn.choices(group, k=len(group))) for group in drawn.choices(groups, k=len(groups))
        )
        for _ in range(draws)
    )
    mean = statistics.mean(statistics.mean(group) for group in groups)
    return Interval(mean, means[int(0.025 * draws)], means[int(0.975 * draws)])


def spread(values: Sequence[float]) -> str:
    """Mean and, for two values or more, sample standard deviation of values in 0..1, in percent."""
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"
