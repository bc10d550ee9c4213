"""What a study's figure says, in sentences, and the laws that are fitted to its lines."""

from dataclasses import dataclass

import numpy as np

from tlab.comparison.phrases import is_share, lead, value
from tlab.config.validation import best_is
from tlab.studies.points import Figure, Line
from tlab.studies.power_law import FEWEST, Floats, PowerLaw, fit, resampled

INTERVAL = (0.025, 0.975)


@dataclass(frozen=True)
class LearningCurve:
    """A line with the law of its error.

    Attributes:
        line: The line.
        sizes: Its numbers of training images, `N`.
        errors: Errors of each seed that has run with all of them, `S N`.
        law: Law of the mean over the seeds.
        resampled: Laws of resampled seeds; None for one seed.
    """

    line: Line
    sizes: Floats
    errors: Floats
    law: PowerLaw
    resampled: PowerLaw | None


def learning_curves(figure: Figure) -> tuple[list[LearningCurve], list[str]]:
    """Return the lines to which a law can be fitted, and a remark for each other one."""
    curves, remarks = [], []
    for line in figure.lines:
        seeds = set.intersection(*(set(point.values) for point in line.points))
        if len(line.points) < FEWEST or not seeds:
            remarks.append(
                f"{line.name}: no power law, which takes {FEWEST} sizes that a seed has run with; there are "
                f"{len(line.points) if seeds else 0}."
            )
            continue
        sizes = np.array([point.position for point in line.points])
        values = np.array([[point.values[seed] for point in line.points] for seed in sorted(seeds)])
        errors = values if best_is(figure.metric) == "min" else 1 - values
        law = fit(sizes, errors.mean(axis=0))
        curves.append(LearningCurve(line, sizes, errors, law, resampled(sizes, errors)))
    return curves, remarks


def of_doubling(curve: LearningCurve, metric: str) -> list[str]:
    """Return what twice as many images would bring, and how well the law foretells the largest size."""
    most = float(curve.sizes[-1])
    doubled = [most, 2 * most]
    gain = -float(np.diff(curve.law.error(doubled)[0])[0])
    of = f"{curve.line.name}: " if curve.line.name != "accuracy" else ""
    sure = "one seed, so no interval"
    if curve.resampled is not None:
        low, high = np.quantile(-np.diff(curve.resampled.error(doubled), axis=1), INTERVAL)
        among = f"{_gain(float(low), metric, unit=False)} to {_gain(float(high), metric)}"
        sure = f"{among}, bootstrap over {len(curve.errors)} seeds"
    told = [
        f"{of}labelling twice as many images ({2 * most:,.0f} instead of {most:,.0f}) would bring "
        f"{_gain(gain, metric)} of {metric} ({sure}); the error falls as n^-{float(curve.law.b[0]):.2f} to a "
        f"floor of {value(float(curve.law.c[0]), metric)}."
    ]
    if len(curve.sizes) > FEWEST:
        before = fit(curve.sizes[:-1], curve.errors.mean(axis=0)[:-1])
        expected, found = float(before.error(doubled)[0][0]), float(curve.errors.mean(axis=0)[-1])
        told.append(
            f"Fitted without the largest size, the law expects {value(expected, metric)} error there; it is "
            f"{value(found, metric)}."
        )
    return [sentence[0].upper() + sentence[1:] if not of else sentence for sentence in told]


def findings(figure: Figure) -> list[str]:
    """Return a sentence for each line: its ends, and how far it is there from a reference.

    The reference is the line that is the same at all places, else the first.
    """
    metric = figure.metric
    reference = next((line for line in figure.lines if not line.moves), figure.lines[0])
    told = []
    for line in figure.lines:
        ends = [line.points[0], *line.points[1:][-1:]]
        at = [f" at {point.x}" if line.moves else "" for point in ends]
        said = ", ".join(f"{value(point.mean, metric)}{where}" for point, where in zip(ends, at, strict=True))
        against = []
        for point, where in zip(ends, at, strict=True):
            others = [each for each in reference.points if each.position == point.position or not reference.moves]
            if line is not reference and others:
                difference = point.mean - others[0].mean
                above = (
                    f"{lead(difference, metric)} {'above' if difference > 0 else 'below'}"
                    if difference
                    else "as much"
                )
                against.append(f"{above}{where}")
        said += f"; against {reference.name} {', '.join(against)}" if against else ""
        told.append(f"{line.name}: {said}.")
    return told


def _gain(gain: float, metric: str, unit: bool = True) -> str:
    """Return a gain, which no law makes negative: `1.4 points`, `0.03`."""
    return f"{100 * abs(gain):.1f}{' points' if unit else ''}" if is_share(metric) else f"{abs(gain):.3f}"
