"""LogME: the maximum of the evidence, against direct evaluation."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from tlab.advising.logme import logme


def by_hand(features: np.ndarray, labels: np.ndarray, num_classes: int) -> float:
    """The evidence as the density of the labels, N(0, I / beta + F F^T / alpha), maximized by a general search."""
    found = []
    for label in range(num_classes):
        y = (labels == label).astype(float)

        def loss(logs: np.ndarray, y: np.ndarray = y) -> float:
            alpha, beta = np.exp(logs)
            covariance = np.eye(len(y)) / beta + features @ features.T / alpha
            return -multivariate_normal.logpdf(y, np.zeros(len(y)), covariance)

        best = min(minimize(loss, start, method="Nelder-Mead").fun for start in ([0.0, 0.0], [3.0, 3.0]))
        found.append(-best / len(y))
    return float(np.mean(found))


@pytest.mark.parametrize(("images", "width"), [(30, 4), (12, 20)], ids=["more images", "more features"])
def test_it_is_the_maximum_of_the_evidence(images, width):
    rng = np.random.default_rng(0)
    labels = np.arange(images) % 3
    features = rng.normal(size=(images, width)) + np.eye(3)[labels] @ rng.normal(size=(3, width))
    assert logme(features, labels, 3) == pytest.approx(by_hand(features, labels, 3), abs=1e-3)


def test_features_that_tell_the_classes_are_worth_more():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    noise = rng.normal(size=(40, 5))
    telling = noise + 5 * labels[:, None]
    assert logme(telling, labels, 2) > logme(noise, labels, 2) + 0.5


def test_what_cannot_be_told_apart_has_a_finite_value():
    labels = np.arange(10) % 2
    for features in (np.zeros((10, 3)), np.eye(10), np.repeat(labels[:, None] * 1.0, 3, axis=1)):
        assert np.isfinite(logme(features, labels, 3))
