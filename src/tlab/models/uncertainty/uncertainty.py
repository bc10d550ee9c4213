"""What a checkpoint keeps so that, alone, it can say which images it knows and which classes are possible."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from tlab.models.uncertainty.conformal import adaptive_scores, prediction_sets
from tlab.models.uncertainty.out_of_distribution import FeatureDistribution, threshold

KEPT = 0.95  # share of validation images that count as known
TENSORS = {"means": 2, "axes": 2, "variances": 1, "calibration": 1}  # name -> number of dimensions


@dataclass(frozen=True)
class Uncertainty:
    """Where known images end, and how sure the classifier is of images that it has not seen.

    Attributes:
        features: The pooled features of training images.
        farthest: Distance by `FeatureDistribution.distances` within which a share `KEPT` of validation images are.
        calibration: `adaptive_scores` of the right class of validation images: `N`, float32, ascending.
    """

    features: FeatureDistribution
    farthest: float
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
        calibration = adaptive_scores(logits.softmax(dim=1), uniform).gather(1, labels[:, None])[:, 0]
        farthest = -threshold(-features.distances(validation), KEPT)
        return cls(features, farthest, calibration.float().sort().values)

    def known(self, features: Tensor) -> Tensor:
        """Tell which images, of features `B D`, are like those of training: `B`, bool."""
        return self.features.distances(features) <= self.farthest

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
        thresholds = {"mahalanobis": -self.farthest}
        return {**vars(self.features), "thresholds": thresholds, "calibration": self.calibration}

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
            numbers = (plain.get("rest"), plain["thresholds"].get("mahalanobis"))  # once there was another
            fits = fits and all(type(number) is float for number in numbers)
        if not fits:
            raise ValueError("what it keeps of its features is of another network")
        distribution = FeatureDistribution(*(plain[name] for name in ("means", "axes", "variances", "rest")))
        return cls(distribution, -plain["thresholds"]["mahalanobis"], plain["calibration"])
