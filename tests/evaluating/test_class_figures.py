"""Figures by class, held against scikit-learn and SciPy."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

from tlab.evaluating.classes import class_figures
from tlab.models.calibration.measures import share


@pytest.mark.parametrize(("part", "whole"), [(0, 5), (5, 5), (3, 10), (997, 1000)])
def test_a_share_has_the_interval_of_wilson(part, whole):
    found = share(part, whole)
    expected = binomtest(part, whole).proportion_ci(method="wilson")
    assert found == pytest.approx((part / whole, expected.low, expected.high), abs=1e-6)


def test_figures_of_each_class():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    expected = precision_recall_fscore_support(labels, predicted)
    found = class_figures(labels, predicted, "abcd")
    precision, recall, f1, images = ([getattr(each, name) for each in found] for name in
                                     ("precision", "recall", "f1", "images"))  # fmt: skip
    assert [each.value for each in precision] == pytest.approx(expected[0].tolist())
    assert [each.value for each in recall] == pytest.approx(expected[1].tolist())
    assert f1 == pytest.approx(expected[2].tolist())
    assert images == expected[3].tolist()


def test_a_class_without_images_has_none():
    labels, predicted = np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1])
    first, second, third, fourth = class_figures(labels, np.append(predicted[:3], 2), "abcd")
    assert first.taken_for == "b (2)"
    assert (second.recall.value, second.precision.value) == (0, 0)
    assert (third.recall, third.precision.value, third.f1) == (None, 0, 0)
    assert (fourth.recall, fourth.precision, fourth.f1) == (None, None, None)
