"""What a network has said of each image of a split."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from tlab.core.text import as_text
from tlab.data.sources.samples import Sample
from tlab.evaluating.evaluation import Evaluation


@dataclass(frozen=True)
class PredictedImages:
    """N images.

    Attributes:
        classes: Names of the K classes, as valid text.
        samples: The images.
        labels: The class of each: N, int64.
        predicted: Its predicted class: N, int64.
        probabilities: The probability of each class: N K, float64.
        losses: Negative log-likelihood of each image's class: N.
    """

    classes: tuple[str, ...]
    samples: list[Sample]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    losses: NDArray[np.float64]

    @classmethod
    def of(cls, found: Evaluation) -> "PredictedImages":
        """Return the images of an evaluation, with the probabilities that it has measured."""
        samples, predicted = found.samples, found.logits.argmax(axis=1)
        labels = np.array([sample.label for sample in samples])
        probabilities = softmax(found.logits.astype(np.float64) / found.divisor, axis=1)
        own = probabilities[np.arange(len(labels)), labels]
        losses = -np.log(np.maximum(own, np.finfo(np.float64).tiny))
        classes = tuple(map(as_text, found.trained.classes))
        return cls(classes, samples, labels, predicted, probabilities, losses)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each is predicted right: N."""
        return self.labels == self.predicted

    def worst(self, most: int) -> list[int]:
        """Return the numbers of the images that are predicted wrong with the highest losses, the highest first."""
        order = np.argsort(-self.losses, kind="stable")
        return order[~self.correct[order]][:most].tolist()

    def caption(self, row: int) -> str:
        """Return the probabilities of the predicted class of an image, and of its own where that is another one."""
        told = dict.fromkeys((int(self.predicted[row]), int(self.labels[row])))
        return ", ".join(
            f"{self.classes[label]} {100 * self.probabilities[row, label]:.1f}\u00a0%" for label in told
        )
