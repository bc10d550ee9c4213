"""Scores of images that a network does not know, against their definitions and those of pytorch-ood."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from torchmetrics.functional.classification import binary_auroc

from tlab.models.uncertainty import out_of_distribution
from tlab.models.uncertainty.out_of_distribution import FeatureDistribution, threshold
from tlab.models.uncertainty.uncertainty import Uncertainty


def drawn(number, width, classes=3, seed=0):
    """Features `N D` of classes around means of their own, on directions of other scales, and their labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % classes
    scales = torch.logspace(0, -2, width)
    means = 2 * torch.randn(classes, width, generator=torch.Generator().manual_seed(9))
    return (means[labels] + torch.randn(number, width, generator=draw)) * scales, labels


def ledoit_wolf(x):
    """The shrunk covariance of centered rows `N D`, as its authors define it."""
    number, width = x.shape
    sample = x.T @ x / number
    mean = sample.trace() / width * torch.eye(width, dtype=x.dtype)
    noise = sum((row[:, None] * row - sample).square().sum() for row in x) / number**2
    share = min(1.0, float(noise / (sample - mean).square().sum()))
    return share * mean + (1 - share) * sample


@pytest.mark.parametrize(("number", "width"), [(90, 8), (40, 8), (30, 60), (9, 60)])
def test_distances_are_those_of_the_shrunk_covariance(number, width):
    features, labels = drawn(number, width)
    others = drawn(5, width, seed=1)[0]
    x, directions = normalize(features.double(), dim=1), normalize(others.double(), dim=1)
    means = torch.stack([x[labels == label].mean(dim=0) for label in range(3)])
    inverse = torch.linalg.inv(ledoit_wolf(x - means[labels]))
    away = directions[:, None] - means
    expected = torch.einsum("bkd,de,bke->bk", away, inverse, away).amin(dim=1)
    found = FeatureDistribution.fit(features, labels, 3).distances(others)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("number", "width"), [(400, 300), (300, 400)])
def test_a_large_covariance_is_one_of_its_main_axes(number, width, monkeypatch):
    monkeypatch.setattr(out_of_distribution, "AXES", 64)
    features, labels = drawn(number, width)
    exact = FeatureDistribution.fit(features, labels, 3)
    monkeypatch.setattr(out_of_distribution, "EXACT_UP_TO", 100)
    iterated = FeatureDistribution.fit(features, labels, 3)
    assert exact.axes.shape == iterated.axes.shape == (width, 64)
    torch.testing.assert_close(iterated.variances, exact.variances, rtol=0.02, atol=0)
    others = drawn(50, width, seed=1)[0]
    torch.testing.assert_close(iterated.distances(others), exact.distances(others), rtol=0.02, atol=0)


@pytest.mark.parametrize(
    ("features", "labels"),
    [
        (torch.eye(3, 5), torch.tensor([0, 1, 2])),  # one image a class
        (torch.eye(3, 5), torch.tensor([0, 0, 3])),  # classes without an image
        (torch.ones(4, 5), torch.tensor([0, 0, 1, 1])),  # features that are all the same
        (torch.ones(1, 5), torch.tensor([0])),
        (torch.ones(4, 1), torch.tensor([0, 1, 2, 3])),
    ],
)
def test_few_images_have_distances_too(features, labels):
    distribution = FeatureDistribution.fit(features, labels, 4)
    near = distribution.distances(features)
    assert near.isfinite().all()
    assert (distribution.distances(-features) > near.max()).all()


@pytest.mark.parametrize(("number", "kept"), [(1, 1), (19, 19), (20, 19), (100, 95), (101, 96)])
def test_the_threshold_keeps_its_share(number, kept):
    scores = torch.rand(number, generator=torch.Generator().manual_seed(0))
    assert int((scores >= threshold(scores, 0.95)).sum()) == kept


def test_validation_images_are_known_and_far_ones_are_not():
    features, labels = drawn(300, 20)
    validation, of_validation = drawn(100, 20, seed=1)
    weight = torch.stack([features[labels == label].mean(dim=0) for label in range(3)])
    uniform = torch.rand(100, generator=torch.Generator().manual_seed(0))
    fitted = FeatureDistribution.fit(features, labels, 3)
    made = Uncertainty.fit(fitted, validation, validation @ weight.T, of_validation, uniform)
    read = Uncertainty.read(made.plain(), 3, 20)
    assert int(read.known(validation).sum()) >= 95
    far = drawn(100, 20, seed=2)[0].flip(dims=[1])
    assert not read.known(far).any()
    of_earlier_version = {**made.plain(), "thresholds": {"energy": 1.0, **made.plain()["thresholds"]}}
    assert Uncertainty.read(of_earlier_version, 3, 20).known(validation).equal(read.known(validation))
    for broken in ({}, {"means": torch.zeros(3, 21)}, {"axes": None}, {"thresholds": {}}, {"rest": "1"}):
        with pytest.raises(ValueError, match="another network"):
            Uncertainty.read({**made.plain(), **broken} if broken else broken, 3, 20)


def by_formulas(features, labels, others):
    """Scores as the papers define them: the nearest class's Mahalanobis distance, with the pseudoinverse.

    Lee et al. 2018, equations 1 and 2: one empirical covariance of all classes.
    """
    x, y, z = (each.double().numpy() for each in (features, labels, others))
    means = np.stack([x[y == label].mean(axis=0) for label in np.unique(y)])
    centered = x - means[y.astype(int)]
    inverse = np.linalg.pinv(centered.T @ centered / len(x))
    away = z[:, None] - means
    return torch.tensor(np.einsum("bkd,de,bke->bk", away, inverse, away).min(axis=1))


def by_pytorch_ood(features, labels, others):
    detectors = pytest.importorskip("pytorch_ood.detector", reason="pytorch-ood is not installed")
    return detectors.Mahalanobis(None).fit_features(features, labels).predict_features(others)


@pytest.mark.parametrize("oracle", [by_formulas, by_pytorch_ood])
def test_scores_rank_as_those_of(oracle):
    features, labels = drawn(600, 64, classes=7)
    known, _ = drawn(300, 64, classes=7, seed=1)
    unknown = drawn(300, 64, classes=7, seed=2)[0]
    unknown += 0.2 * unknown.roll(1, dims=1)

    def auroc(scores):
        return float(binary_auroc(scores.argsort().argsort() / 600, torch.arange(600).lt(300).long()))

    both = torch.cat([known, unknown])
    theirs = auroc(-oracle(normalize(features, dim=1), labels, normalize(both, dim=1)))
    ours = auroc(-FeatureDistribution.fit(features, labels, 7).distances(both))
    assert ours == pytest.approx(theirs, abs=0.01)
    assert 0.6 < ours < 0.99
