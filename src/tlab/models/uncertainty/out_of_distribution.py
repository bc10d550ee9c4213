"""Whether an image is like those that a classifier has learned from, by its features."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

AXES = 512  # principal axes of the covariance that are kept, at most
EXACT_UP_TO = 1024  # side of a matrix up to which all of its eigenvectors are computed, in less than a second
ITERATIONS = 6  # of the power method on a larger one


@dataclass(frozen=True)
class FeatureDistribution:
    """The directions of the pooled features of each class as a Gaussian, with one covariance for all classes.

    That of Lee et al. 2018 ("A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
    Attacks", arXiv:1807.03888, section 2.1), of the last layer, with features brought to length 1 (Mueller and Hein
    2025, "Mahalanobis++", arXiv:2505.18032). The covariance is shrunk towards a multiple of the
    identity (Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices"), since
    there may be fewer images than features. It is kept as its principal axes, at most `AXES`; in all other
    directions the variance is one number, their mean (Tipping and Bishop 1999, "Probabilistic Principal Component
    Analysis"). That is exact for up to `AXES` features or images, and takes at most 2 KB a feature.

    Attributes:
        means: Mean of each class's directions: `K D`, float32; NaN for a class without an image.
        axes: Orthonormal columns `D R`, float32.
        variances: Variance along each of them: `R`, float32.
        rest: Variance in each direction at right angles to them; infinite where there is none.
    """

    means: Tensor
    axes: Tensor
    variances: Tensor
    rest: float

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, num_classes: int) -> "FeatureDistribution":
        """Return the distribution of features `N D` with labels `N` (int64), N at least 1."""
        x = normalize(features.double(), dim=1)
        counts = torch.bincount(labels, minlength=num_classes)
        means = x.new_zeros(num_classes, x.shape[1]).index_add_(0, labels, x) / counts[:, None]
        centered = x - (means[labels] if int(counts.max()) > 1 else x.mean(dim=0))
        number, width = centered.shape
        wide = number < width
        product = (centered @ centered.T if wide else centered.T @ centered) / number
        mean_variance = float(product.trace()) / width or 1.0  # of features that are all the same: any
        share = _shrinkage(centered, product, mean_variance)
        values, vectors = _largest(product, min(AXES, len(product)))
        present = values > 1e-10 * mean_variance
        values, vectors = values[present], vectors[:, present]
        axes = centered.T @ vectors / (number * values).sqrt() if wide else vectors
        left = width - len(values)
        rest = float("inf")
        if left:
            others = max(0.0, width * mean_variance - float(values.sum())) / left
            rest = max((1 - share) * others + share * mean_variance, 1e-6 * mean_variance)
        variances = (1 - share) * values + share * mean_variance
        return cls(means.float(), axes.float(), variances.float(), rest)

    def distances(self, features: Tensor) -> Tensor:
        """Return the squared Mahalanobis distance of features `B D` to the mean of the nearest class: `B`, float64.

        Computed on the CPU.
        """
        x, means, axes = normalize(features.cpu().double(), dim=1), self.means.double(), self.axes.double()
        x_on_axes, means_on_axes, scale = x @ axes, means @ axes, self.variances.double().sqrt()
        on_axes = _squares(x_on_axes / scale, means_on_axes / scale)
        beside = (_squares(x, means) - _squares(x_on_axes, means_on_axes)).clamp(min=0) / self.rest
        return (on_axes + beside).nan_to_num(nan=float("inf")).amin(dim=1)


def threshold(scores: Tensor, kept: float) -> float:
    """Return the largest threshold that at least a share `kept` of scores `N` reach."""
    return float(scores.sort().values[int((1 - kept) * len(scores) + 1e-9)])


def _shrinkage(centered: Tensor, product: Tensor, mean_variance: float) -> float:
    """Return the share of the identity, in 0..1, that makes the estimated covariance the best on average.

    Args:
        centered: Features without their means: `N D`.
        product: The matrix of their inner products over N, on either side: `D D` or `N N`.
        mean_variance: Mean of the variances.
    """
    number, width = centered.shape
    square = float(product.square().sum())
    spread = square / width - mean_variance**2
    noise = (float(centered.square().sum(dim=1).square().sum()) / number - square) / (number * width)
    return min(1.0, noise / spread) if spread > 0 else 1.0


def _largest(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest eigenvalues of a symmetric matrix `M M`, and their vectors as columns.

    Of a large matrix by orthogonal iteration (Halko et al. 2011, "Finding Structure with Randomness"), which takes
    a tenth of the time that all eigenvectors would.
    """
    if len(matrix) <= EXACT_UP_TO:
        values, vectors = torch.linalg.eigh(matrix)
        return values[-count:], vectors[:, -count:]
    start = torch.Generator().manual_seed(0)
    basis, single = torch.randn(len(matrix), count + count // 4, generator=start), matrix.float()
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(single @ basis).Q
    basis = torch.linalg.qr(basis.double()).Q
    values, vectors = torch.linalg.eigh(basis.T @ matrix @ basis)
    return values[-count:], basis @ vectors[:, -count:]


def _squares(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared distances between rows `B D` and `K D`: `B K`."""
    return x.square().sum(dim=1, keepdim=True) - 2 * x @ y.T + y.square().sum(dim=1)
