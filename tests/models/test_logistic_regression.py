"""The optimum of a linear head, against its definition."""

import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tlab.models import logistic_regression
from tlab.models.logistic_regression import STRENGTHS, choose_l2, solve


def drawn(classes=3, images=60, features=8, seed=0, spread=1.5):
    """Features `N D` of overlapping classes, each of another scale and offset, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    centers = rng.normal(size=(classes, features)) * spread
    x = centers[labels] + rng.normal(size=(images, features))
    return x * 10.0 ** rng.uniform(-2, 3, features) + rng.normal(size=features), labels


@pytest.mark.parametrize("spread", [0.2, 1.5])
def test_the_strength_alone_is_that_of_the_solution(monkeypatch, spread):
    x, labels = drawn(spread=spread)
    expected = solve([x], labels, 3).l2
    monkeypatch.setattr(logistic_regression, "ITERATIONS", None)  # nothing is solved to the end
    assert choose_l2(x, labels, 3) == expected


def logits(x, found):
    return x @ found.weight.T + found.bias


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_gradient_is_zero_there(classes):
    x, labels = drawn(classes)
    found = solve([x], labels, classes, l2=2.0)
    z = torch.from_numpy((x - x.mean(0)) / x.std(0))
    weight = torch.from_numpy(found.weight * x.std(0)).requires_grad_()
    bias = torch.from_numpy(found.bias + found.weight @ x.mean(0)).requires_grad_()
    strength = 2.0 * (2 if classes == 2 else 1)  # as one vector's, see `solve`
    loss = F.cross_entropy(z @ weight.T + bias, torch.from_numpy(labels), reduction="sum")
    (loss + strength / 2 * weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-4
    assert bias.grad.abs().max() < 1e-4


def test_scale_and_offset_of_a_feature_change_nothing():
    x, labels = drawn()
    scale, offset = np.logspace(-3, 3, x.shape[1]), np.linspace(-50, 50, x.shape[1])
    moved = x * scale + offset
    one, other = solve([x], labels, 3, l2=1.0), solve([moved], labels, 3, l2=1.0)
    np.testing.assert_allclose(logits(x, one), logits(moved, other), atol=1e-4)


def test_views_of_an_image_share_its_weight():
    x, labels = drawn()
    one, twice = solve([x], labels, 3, l2=1.0), solve([x, x], labels, 3, l2=1.0, num_views=2)
    np.testing.assert_allclose(one.weight, twice.weight, rtol=1e-3, atol=1e-6)
    assert solve([x], labels, 3).l2 == solve([x, x], labels, 3, num_views=2).l2


def test_a_class_weight_counts_as_that_many_images():
    x, labels = drawn(classes=3, images=45)
    doubled = np.concatenate([np.arange(45), np.flatnonzero(labels == 1)])
    z = (x - x.mean(0)) / x.std(0)  # standardized before, so that both see the same features
    weighted = solve([z], labels, 3, class_weights=np.array([1.0, 2.0, 1.0]), l2=1.0)
    repeated = solve([z[doubled]], labels[doubled], 3, l2=1.0)
    assert np.corrcoef(logits(z, weighted).ravel(), logits(z, repeated).ravel())[0, 1] > 0.999


def test_a_feature_that_never_changes_gets_no_weight():
    x, labels = drawn()
    x[:, 2] = 7.0
    found = solve([x], labels, 3, l2=0.1)
    assert np.isfinite(found.weight).all()
    assert (found.weight[:, 2] == 0).all()


def test_the_strength_follows_the_data():
    rng = np.random.default_rng(1)
    noise = solve([rng.normal(size=(80, 30))], np.arange(80) % 2, 2).l2
    x, labels = drawn(images=90, spread=4.0)
    assert noise >= STRENGTHS[2] > solve([x], labels, 3).l2


def test_rare_classes_and_single_images():
    x, labels = drawn(classes=4, images=30)
    labels = np.where(np.arange(30) < 2, 3, labels % 3)  # two images of the last class
    found = solve([x], labels, 5)  # and a class without any
    assert np.isfinite(found.weight).all()
    assert found.weight.shape == (5, x.shape[1])


@pytest.mark.parametrize("images", [1, 2, 6])
def test_few_images_are_enough(images):
    """Fewer than there are folds, or too few for both parts of one."""
    x, labels = drawn(classes=min(images, 3), images=images)
    found = solve([x], labels, 3)
    assert np.isfinite(found.weight).all()
    assert np.isfinite(found.bias).all()


@pytest.mark.parametrize("exact", [True, False])
def test_it_takes_the_memory_of_its_rows_twice(monkeypatch, exact):
    """Whatever the number of views and classes, and each view is taken once."""
    monkeypatch.setattr(logistic_regression, "EXACT_UP_TO", 2**32 if exact else 0)
    monkeypatch.setattr(logistic_regression, "ITERATIONS", 3)
    monkeypatch.setattr(logistic_regression, "CV_ITERATIONS", 1)
    rng = np.random.default_rng(0)
    views = [rng.normal(size=(6_000, 64)).astype(np.float32) for _ in range(2)]
    labels = np.arange(6_000) % 100
    tracemalloc.start()
    solve(iter(views), labels, 100, num_views=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.2 * 2 * views[0].size * (8 if exact else 4) + 2**23
