"""How well a network knows each class."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tlab.core.text import few

NORMAL = 1.959964  # quantile 0.975 of the standard normal distribution


class Share(NamedTuple):
    """A share of images and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassFigures:
    """What predictions are worth of one class.

    Attributes:
        name: The class.
        images: Number of its images.
        recall: Share of them that are predicted so, which is the accuracy of the class; None without an image.
        precision: Share of the images predicted so that are of the class; None where there is none.
        f1: Harmonic mean of both; None where the class is neither among labels nor among predictions.
        taken_for: The other classes that its images are predicted as, the most frequent first.
    """

    name: str
    images: int
    recall: Share | None
    precision: Share | None
    f1: float | None
    taken_for: str


def share(part: int, whole: int) -> Share | None:
    """Return part / whole with its score interval (Wilson 1927), which holds for few images; None of nothing."""
    if not whole:
        return None
    value, square = part / whole, NORMAL**2 / whole
    middle = (value + square / 2) / (1 + square)
    half = math.sqrt(value * (1 - value) * square + square**2 / 4) / (1 + square)
    return Share(value, max(0.0, middle - half), min(1.0, middle + half))


def class_figures(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[str]
) -> list[ClassFigures]:
    """Return the figures of each class.

    Args:
        labels: `N`.
        predicted: Predicted class of each image: `N`.
        classes: Names of the classes.
    """
    found = []
    for label, name in enumerate(classes):
        own, told = labels == label, predicted == label
        hits, both = int((own & told).sum()), int(own.sum() + told.sum())
        others = Counter(predicted[own & ~told].tolist()).most_common()
        taken_for = few(f"{classes[other]} ({count})" for other, count in others)
        recall, precision = share(hits, int(own.sum())), share(hits, int(told.sum()))
        f1 = 2 * hits / both if both else None
        found.append(ClassFigures(name, int(own.sum()), recall, precision, f1, taken_for))
    return found
