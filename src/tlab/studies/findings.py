"""What a study's figure says, in sentences, and the laws that are fitted to its lines."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlab.comparison.phrases import is_share, value
from tlab.comparison.statistics import paired_difference
from tlab.config.validation import best_is
from tlab.core.text import counted, few
from tlab.studies.points import Figure, Line, Point
from tlab.studies.power_law import FEWEST, Floats, PowerLaw, compatible, fit


@dataclass(frozen=True)
class LearningCurve:
    """A line with the law of its error.

    Attributes:
        line: The line.
        sizes: Its numbers of training images, `N`, without those that too few seeds share.
        errors: Errors of the seeds that have all run with these, `S N`.
        law: Law of the mean over the seeds.
        compatible: Laws that the seeds do not rule out at the 95 % level; None where they have no spread.
    """

    line: Line
    sizes: Floats
    errors: Floats
    law: PowerLaw
    compatible: PowerLaw | None

    @property
    def falls(self) -> bool:
        """Whether more images lower the error by the law at all."""
        return float(self.law.a[0]) > 0

    def drawn(self, metric: str) -> dict[str, Any]:
        """Return the law up to twice the largest size, as the metric: `x`, `y`, and `low` and `high` if known."""
        sizes = np.geomspace(self.sizes[0], 2 * self.sizes[-1], 60)
        among = None if self.compatible is None else self.compatible.error(sizes)
        bounds = [None, None] if among is None else [among.min(axis=0), among.max(axis=0)]
        fitted = [self.law.error(sizes)[0], *bounds]
        if best_is(metric) == "max":
            fitted = [None if each is None else 1 - each for each in (fitted[0], *fitted[:0:-1])]
        y, low, high = (None if each is None else each.tolist() for each in fitted)
        return {"x": sizes.tolist(), "y": y, "low": low, "high": high}


def learning_curves(figure: Figure) -> tuple[list[LearningCurve], list[str]]:
    """Return the lines to which a law can be fitted, and remarks on the others and on runs that no law is of."""
    curves, remarks = [], []
    for line in figure.lines:
        shared = _seeds_and_their_sizes(line)
        most = max(len(points) for _, points in shared)
        if most < FEWEST:
            remarks.append(
                f"{line.name}: no power law, which takes {FEWEST} sizes that a seed has run with; there are {most}."
            )
            continue
        seeds, points = max(
            (each for each in shared if len(each[1]) >= FEWEST),
            key=lambda each: (len(each[0]) * len(each[1]), len(each[1])),
        )
        sizes = np.array([point.position for point in points])
        values = np.array([[point.values[seed] for point in points] for seed in sorted(seeds)])
        errors = values if best_is(figure.metric) == "min" else 1 - values
        law = fit(sizes, errors.mean(axis=0))
        curves.append(LearningCurve(line, sizes, errors, law, compatible(sizes, errors)))
        left = {
            point.x: number
            for point in line.points
            if (number := len(point.values) - (len(seeds) if point in points else 0))
        }
        if left:
            remarks.append(
                f"{line.name}: the power law is fitted to {counted(seeds, 'seed')} that ran with the same "
                f"{len(points)} sizes, without {counted(sum(left.values()), 'other run')} (at {few(left)})."
            )
    return curves, remarks


def _seeds_and_their_sizes(line: Line) -> list[tuple[frozenset[int], list[Point]]]:
    """Return every set of seeds that some points share, as large as it can be, with all the points that have it."""
    sets: dict[frozenset[int], None] = {}
    for point in line.points:
        own = frozenset(point.values)
        sets |= dict.fromkeys([own, *(own & other for other in sets)])
    return [(seeds, [point for point in line.points if seeds <= point.values.keys()]) for seeds in sets if seeds]


def of_doubling(curve: LearningCurve, metric: str) -> list[str]:
    """Return what twice as many images would bring, what the law is, and how well it foretells the largest size."""
    most, seeds = float(curve.sizes[-1]), len(curve.errors)
    doubled = [most, 2 * most]
    of = f"{curve.line.name}: " if curve.line.name != "accuracy" else ""
    sure = "one seed, so no interval" if seeds == 1 else f"{seeds} equal seeds, so no interval"
    if curve.compatible is not None:
        gains = -np.diff(curve.compatible.error(doubled), axis=1)
        sure = f"95 % interval {_span(float(gains.min()), float(gains.max()), metric)}, {seeds} seeds"
    if not curve.falls:
        return [
            f"{curve.line.name}: the error does not fall from {curve.sizes[0]:,.0f} to {most:,.0f} images, so no "
            f"law says what twice as many would bring ({sure})."
        ]
    gain = -float(np.diff(curve.law.error(doubled)[0])[0])
    told = [
        f"{of}labeling twice as many images ({2 * most:,.0f} instead of {most:,.0f}) would bring "
        f"{_number(gain, metric)}{_unit(metric)} of {metric} ({sure}).",
        f"{of}{_law(curve, metric)}",
    ]
    if len(curve.sizes) > FEWEST:
        before = fit(curve.sizes[:-1], curve.errors.mean(axis=0)[:-1])
        expected, found = float(before.error(doubled)[0][0]), float(curve.errors.mean(axis=0)[-1])
        told.append(
            f"{of}fitted without the largest size, the law expects {value(expected, metric)} error there; it is "
            f"{value(found, metric)}."
        )
    return told if of else [sentence[0].upper() + sentence[1:] for sentence in told]


def _law(curve: LearningCurve, metric: str) -> str:
    """Return exponent and floor of a law, or why they are not told."""
    laws = curve.compatible
    if laws is None:
        return "exponent and floor of the law are not told, which takes seeds that differ."
    (low, high), (lowest, highest) = ((float(each.min()), float(each.max())) for each in (laws.b, laws.c))
    floors = f"{value(lowest, metric, unit=False)} to {value(highest, metric)}"
    if not laws.is_told:
        return (
            "these sizes do not tell how fast the error falls, nor where that ends: exponents from "
            f"{low:.2f} to {high:.2f} fit, with floors of {floors}."
        )
    return (
        f"the error falls as n^-{float(curve.law.b[0]):.2f} ({low:.2f} to {high:.2f}) to a floor of "
        f"{value(float(curve.law.c[0]), metric)} ({floors})."
    )


def findings(figure: Figure) -> list[str]:
    """Return a sentence for each line: its ends and its best, and how far they are from a reference.

    The reference is the line that is the same at all places, else the first.
    """
    metric, best = figure.metric, max if best_is(figure.metric) == "max" else min
    reference = next((line for line in figure.lines if not line.moves), figure.lines[0])
    told = []
    for line in figure.lines:
        means = [point.mean for point in line.points]
        shown = sorted({0, means.index(best(means)), len(means) - 1})
        ends = [line.points[i] for i in shown]
        at = [f" at {point.x}" if line.moves else "" for point in ends]
        said = ", ".join(f"{value(point.mean, metric)}{where}" for point, where in zip(ends, at, strict=True))
        against = [
            f"{_lead(point.values, other.values, metric)}{where}"
            for point, where in zip(ends, at, strict=True)
            for other in reference.points
            if line is not reference and (other.position == point.position or not reference.moves)
        ]
        said += f"; against {reference.name} {', '.join(against)}" if against else ""
        told.append(f"{line.name}: {said}.")
    return told


def how_sure(figure: Figure) -> str:
    """Return how many seeds there are, and what follows of them for intervals."""
    counts = {len(point.values) for line in figure.lines for point in line.points}
    if counts == {1}:
        return "One seed, so no intervals: another one may lie far off."
    seeds = f"{min(counts)} to {max(counts)} seeds" if len(counts) > 1 else counted(max(counts), "seed")
    paired = "; in brackets 95 % intervals of differences, Student's t over the seeds that both have"
    return f"Means of {seeds}{paired if len(figure.lines) > 1 else ''}."


def _lead(values: Mapping[int, float], others: Mapping[int, float], metric: str) -> str:
    """Return how far a point is from another, over the seeds that both have, and the interval of that."""
    summary = paired_difference(values, others).summary
    if summary is None:
        return "unknown, without a common seed,"
    text = f"{_number(summary.mean, metric, sign=True)}{_unit(metric)}"
    if summary.low is None or summary.high is None or summary.all_equal:
        return text
    return f"{text} ({_span(summary.low, summary.high, metric, sign=True)})"


def _span(low: float, high: float, metric: str, sign: bool = False) -> str:
    return f"{_number(low, metric, sign)} to {_number(high, metric, sign)}"


def _number(number: float, metric: str, sign: bool = False) -> str:
    """Return a difference, of shares in points."""
    scaled, digits = (100 * number, 1) if is_share(metric) else (number, 3)
    rounded = round(scaled, digits) + 0.0  # no -0.0
    return f"{rounded:{'+' if sign and rounded else ''}.{digits}f}"


def _unit(metric: str) -> str:
    return " points" if is_share(metric) else ""
