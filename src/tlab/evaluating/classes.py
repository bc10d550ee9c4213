"""How well a network knows each class."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlab.core.text import few
from tlab.models.calibration.measures import Measure, share


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
    recall: Measure | None
    precision: Measure | None
    f1: float | None
    taken_for: str


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
