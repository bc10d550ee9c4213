"""Measures of a classifier on a split, each with an interval: of accuracy the score interval, else by bootstrap."""

import itertools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from tlab.core.hardware import cpus_per_process
from tlab.models.calibration.reliability import BINS, bins

DRAWS = 1_000
LEVEL = (2.5, 97.5)  # percentiles between which an interval lies
CLEAR = 1.96  # standard deviations by which a gap differs from 0
AT_ONCE = 2**22  # images times draws in memory
NORMAL = 1.959964  # quantile 0.975 of the standard normal distribution

Weights = np.ndarray  # `B N` (int32): how often each of B draws has each image
# Name -> a value of each draw, `B`; NaN where it has none. Of `ece` the gap of each bin: `B M`
Statistic = Callable[[Weights], dict[str, np.ndarray]]


class Measure(NamedTuple):
    """A measure and its 95 % interval."""

    value: float
    low: float
    high: float


Measures = dict[str, Measure | None]  # None for one that the images have not


def measures(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> Measures:
    """Return the measures of predictions, softmax(logits / temperature), on labeled images.

    `accuracy`; `ece`, expected calibration error in 15 bins; `nll`, negative log-likelihood; `brier`, the squared
    distance to the right answer, summed over the classes (Brier 1950); `balanced_accuracy`, the mean of the
    accuracies of the classes that have images; `macro_f1`, over the classes among labels or predictions; `auroc`,
    the mean over the classes that have images of the area under the ROC curve of each against all others; `kappa`,
    Cohen's. The interval of accuracy is that of `share`; others are percentiles of 1,000 draws of as many images
    with replacement, the same at every call; for that of ECE see `_of_gaps`.

    Args:
        logits: `N K`.
        labels: `N`.
        temperature: What logits are divided by.

    Returns:
        Name -> measure; None for one that these images have not, such as `auroc` for images of one class.
    """
    z, probabilities = _probabilities(logits, temperature)
    predicted = logits.argmax(axis=1)
    return {"accuracy": share(int((predicted == labels).sum()), len(labels))} | _bootstrapped(
        len(labels),
        _of_probabilities(z, probabilities, predicted, labels),
        _of_classes(predicted, labels, logits.shape[1]),
        _of_ranks(probabilities, labels),
    )


def calibration_measures(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> Measures:
    """Return `nll` and `ece` alone, as `measures` does."""
    statistic = _of_probabilities(*_probabilities(logits, temperature), logits.argmax(axis=1), labels)
    found = _bootstrapped(len(labels), statistic)
    return {name: found[name] for name in ("nll", "ece")}


def class_measures(predicted: np.ndarray, labels: np.ndarray, classes: int) -> Measures:
    """Return `accuracy`, `balanced_accuracy`, `macro_f1` and `kappa` of predicted labels, as `measures` does.

    Args:
        predicted: `N`.
        labels: `N`.
        classes: Number of classes.
    """
    accuracy = {"accuracy": share(int((predicted == labels).sum()), len(labels))}
    return accuracy | _bootstrapped(len(labels), _of_classes(predicted, labels, classes))


def share(part: int, whole: int) -> Measure | None:
    """Return part / whole with its score interval (Wilson 1927), which holds for few images and near 0 and 1.

    A bootstrap would give a share of 1 no interval at all. None of nothing.
    """
    if not whole:
        return None
    value, square = part / whole, NORMAL**2 / whole
    middle = (value + square / 2) / (1 + square)
    half = math.sqrt(value * (1 - value) * square + square**2 / 4) / (1 + square)
    return Measure(value, max(0.0, middle - half), min(1.0, middle + half))


def share_of(value: float | None, whole: int | None) -> Measure | None:
    """Return the measure of an accuracy that was kept as a number alone, from the number of images; see `share`."""
    return None if value is None or not whole else share(round(value * whole), whole)


def interval_words(found: Measure | None) -> str:
    """Return the interval of a share, `90.7 to 97.6 %`; a dash for None."""
    return "–" if found is None else f"{100 * found.low:.1f} to {100 * found.high:.1f} %"


def _probabilities(logits: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Return scaled logits whose largest is 0, and probabilities: `N K`, float64."""
    z = logits.astype(np.float64) / temperature
    z -= z.max(axis=1, keepdims=True)
    probabilities = np.exp(z)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return z, probabilities


def _bootstrapped(images: int, *statistics: Statistic) -> Measures:
    """Return each statistic of all images, with the percentiles of its values over the draws."""

    def every(weights: Weights) -> dict[str, np.ndarray]:
        return {name: values for statistic in statistics for name, values in statistic(weights).items()}

    whole = every(np.ones((1, images), np.int32))
    drawn = [every(weights) for weights in _draws(images)]
    found: Measures = {}
    for name, (value,) in whole.items():
        values = np.concatenate([each[name] for each in drawn])
        if values.ndim == 2:
            found[name] = _of_gaps(value, values)
            continue
        known = values[~np.isnan(values)]
        found[name] = None if np.isnan(value) else Measure(*map(float, (value, *np.percentile(known, LEVEL))))
    return found


def _of_gaps(gaps: np.ndarray, drawn: np.ndarray) -> Measure:
    """Return the sum of the sizes of gaps `M`, and its interval by those of draws, `B M`.

    Chance alone makes gaps, whose sizes do not cancel out: the sum is too large by an amount that does not vanish
    as the gaps do, and that of a draw is too large once more, so the draws' percentiles may lie above the sum. The
    lower end allows for it: in the draws, gaps that chance explains are taken for 0 (a pretest, as in Andrews 2000,
    "Inconsistency of the Bootstrap when a Parameter is on the Boundary of the Parameter Space"). The upper end is
    as far off as the draws' is from their mean.
    """
    noise = drawn - gaps
    clear = np.where(np.abs(gaps) > CLEAR * noise.std(axis=0), gaps, 0)
    too_large = np.abs(clear + noise).sum(axis=1) - np.abs(clear).sum()
    value, sums = np.abs(gaps).sum(), np.abs(drawn).sum(axis=1)
    low = value - np.percentile(too_large, LEVEL[1])
    high = value + np.percentile(sums, LEVEL[1]) - sums.mean()
    return Measure(float(value), float(np.clip(low, 0, value)), float(min(1, high)))


def _draws(images: int) -> Iterator[Weights]:
    random, at_once = np.random.default_rng(0), max(1, AT_ONCE // images)
    for first in range(0, DRAWS, at_once):
        number = min(at_once, DRAWS - first)
        drawn = random.integers(0, images, (number, images)) + images * np.arange(number)[:, None]
        yield np.bincount(drawn.ravel(), minlength=number * images).reshape(number, images).astype(np.int32)


def _of_probabilities(
    z: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray, labels: np.ndarray
) -> Statistic:
    """Return what is a sum over the images: NLL, Brier score, and the sums of the bins of ECE."""
    rows = np.arange(len(labels))
    correct, confidence = predicted == labels, probabilities[rows, predicted]
    nll = np.log(np.exp(z).sum(axis=1)) - z[rows, labels]
    brier = np.square(probabilities).sum(axis=1) - 2 * probabilities[rows, labels] + 1
    values = np.zeros((len(labels), 2 + BINS + 1))
    values[:, 0], values[:, 1] = nll, brier
    values[rows, 2 + bins(confidence)] = confidence - correct

    def statistic(weights: Weights) -> dict[str, np.ndarray]:
        means = weights.astype(np.float64) @ values / len(labels)
        return {"nll": means[:, 0], "brier": means[:, 1], "ece": means[:, 2:]}

    return statistic


def _of_classes(predicted: np.ndarray, labels: np.ndarray, classes: int) -> Statistic:
    """Return what depends on the counts of each class: balanced accuracy, macro F1 and kappa."""

    def counter(of: np.ndarray) -> Callable[[Weights], np.ndarray]:
        order = np.argsort(of, kind="stable")
        present, starts = np.unique(of[order], return_index=True)

        def count(weights: Weights) -> np.ndarray:
            counts = np.zeros((len(weights), classes))
            counts[:, present] = np.add.reduceat(np.take(weights, order, axis=1), starts, axis=1)
            return counts

        return count

    count_labels, count_predicted, correct = (
        counter(labels),
        counter(predicted),
        (predicted == labels).astype(np.int32),
    )

    def statistic(weights: Weights) -> dict[str, np.ndarray]:
        own, told, hits = count_labels(weights), count_predicted(weights), count_labels(weights * correct)
        accuracy = hits.sum(axis=1) / len(labels)
        by_chance = (own * told).sum(axis=1) / len(labels) ** 2
        return {
            "balanced_accuracy": _mean_over_classes(hits, own),
            "macro_f1": _mean_over_classes(2 * hits, own + told),
            "kappa": _divided(accuracy - by_chance, 1 - by_chance),
        }

    return statistic


def _of_ranks(probabilities: np.ndarray, labels: np.ndarray) -> Statistic:
    """Return the mean area under the ROC curves: the share of pairs in which the class's own image is ahead.

    A tie is half a pair (Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve").
    """

    def area(label: int, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs in which the class's own image is ahead, and all pairs, of each draw: `B`."""
        own, others = np.flatnonzero(labels == label), np.flatnonzero(labels != label)
        others = others[np.argsort(probabilities[others, label], kind="stable")]
        ranked, scores = probabilities[others, label], probabilities[own, label]
        below, up_to = np.searchsorted(ranked, scores, "left"), np.searchsorted(ranked, scores, "right")
        passed = np.zeros((len(weights), len(others) + 1), np.int32)
        np.cumsum(np.take(weights, others, axis=1), axis=1, out=passed[:, 1:])
        of_own = np.take(weights, own, axis=1)
        twice = np.take(passed, below, axis=1) + np.take(passed, up_to, axis=1)
        ahead = (of_own * twice.astype(np.float64)).sum(axis=1) / 2
        return ahead, of_own.sum(axis=1) * passed[:, -1].astype(np.float64)

    def statistic(weights: Weights) -> dict[str, np.ndarray]:
        with ThreadPoolExecutor(cpus_per_process()) as pool:  # NumPy releases the interpreter's lock
            areas = list(pool.map(area, np.unique(labels).tolist(), itertools.repeat(weights)))
        ahead, pairs = (np.stack(each, axis=1) for each in zip(*areas, strict=True))
        return {"auroc": _mean_over_classes(ahead, pairs)}

    return statistic


def _mean_over_classes(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """Return the mean of parts / wholes, `B K`, over the classes whose whole is not 0; NaN without one."""
    shares = np.divide(parts, wholes, out=np.zeros_like(parts), where=wholes > 0)
    return _divided(shares.sum(axis=1), (wholes > 0).sum(axis=1))


def _divided(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, `B`; NaN where that is 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole != 0)
