"""What a checkpoint keeps so that, alone, it can say which images it knows and which classes are possible."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from tlab.models.uncertainty.conformal import adaptive_scores, prediction_sets
from tlab.models.uncertainty.out_of_distribution import FeatureDistribution, negative_energy, threshold

KEPT = 0.95  # share of validation images that count as known
TENSORS = {"means": 2, "axes": 2, "variances": 1, "calibration": 1}  # name -> number of dimensions


@dataclass(frozen=True)
class Uncertainty:
    """Where known images end, by two scores, and how sure the classifier is of images that it has not seen.

    Attributes:
        features: The pooled features of training images.
        thresholds: `energy` and `mahalanobis` -> the score that a share `KEPT` of validation images reach.
        calibration: `adaptive_scores` of the right class of validation images: `N`, float32, ascending.
    """

    features: FeatureDistribution
    thresholds: Mapping[str, float]
    calibration: Tensor

    @classmethod
    def fit(
        cls, features: FeatureDistribution, validation: Tensor, logits: Tensor, labels: Tensor, uniform: Tensor
    ) -> Self:
        """Return it from validation images.

        The probabilities of the calibration are those before any temperature, so that it holds with each.

        Args:
            features: Distribution of the training images' features.
            validation: Features of validation images, `N D`.
            logits: Their logits, `N K`.
            labels: Their labels, `N` (int64).
            uniform: A number in [0, 1) for each, `N`, as for `adaptive_scores`.
        """
        scores = _scores(features, validation, logits)
        calibration = adaptive_scores(logits.softmax(dim=1), uniform).gather(1, labels[:, None])[:, 0]
        thresholds = {name: threshold(values, KEPT) for name, values in scores.items()}
        return cls(features, thresholds, calibration.float().sort().values)

    def known(self, features: Tensor, logits: Tensor) -> Tensor:
        """Tell which images, of features `B D` and logits `B K`, are like those of training: `B`, bool."""
        scores = _scores(self.features, features, logits)
        return scores["mahalanobis"] >= self.thresholds["mahalanobis"]

    def sets(self, logits: Tensor, uniform: Tensor, coverage: float) -> Tensor:
        """Return which classes belong to the set of each image, `B K`, bool; see `prediction_sets`.

        Args:
            logits: Logits of the images, `B K`.
            uniform: As for `adaptive_scores`.
            coverage: Probability with which a set holds the right class.
        """
        scores = adaptive_scores(logits.cpu().softmax(dim=1), uniform)
        return prediction_sets(scores, self.calibration, coverage)

    def plain(self) -> dict[str, Any]:
        """Return it as plain data for a checkpoint."""
        return {**vars(self.features), "thresholds": dict(self.thresholds), "calibration": self.calibration}

    @classmethod
    def read(cls, plain: Any, num_classes: int, width: int) -> Self:
        """Return what `plain` returned, read from a checkpoint of a network with `width` features.

        Raises:
            ValueError: It is not that.
        """
        fits = isinstance(plain, dict) and all(
            isinstance(value := plain.get(name), Tensor) and value.dtype == torch.float32 and value.ndim == dims
            for name, dims in TENSORS.items()
        )
        if fits:
            count = plain["axes"].shape[1]
            fits = plain["means"].shape == (num_classes, width) and plain["axes"].shape == (width, count)
            fits = fits and plain["variances"].shape == (count,) and isinstance(plain.get("thresholds"), dict)
            numbers = [plain.get("rest"), *(plain["thresholds"].get(name) for name in ("energy", "mahalanobis"))]
            fits = fits and all(type(number) is float for number in numbers)
        if not fits:
            raise ValueError("what it keeps of its features is of another network")
        distribution = FeatureDistribution(*(plain[name] for name in ("means", "axes", "variances", "rest")))
        return cls(distribution, plain["thresholds"], plain["calibration"])


def _scores(distribution: FeatureDistribution, features: Tensor, logits: Tensor) -> dict[str, Tensor]:
    """Return name -> score of each image, `B`, larger for known ones."""
    return {"energy": negative_energy(logits), "mahalanobis": -distribution.distances(features)}
