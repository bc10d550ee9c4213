"""Intervals, paired tests and the correction, held against SciPy and the literature."""

import math

import numpy as np
import pytest
from scipy import stats

from tlab.comparison.statistics import holm, paired_difference, summarize

VALUES = [0.81, 0.84, 0.79, 0.88, 0.83]
OTHERS = [0.80, 0.80, 0.78, 0.83, 0.82]


def test_the_t_interval_is_that_of_scipy():
    summary = summarize(VALUES)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(VALUES), scale=stats.sem(VALUES))
    assert (summary.n, summary.mean) == (5, pytest.approx(0.83))
    assert summary.sd == pytest.approx(np.std(VALUES, ddof=1))
    assert (summary.low, summary.high) == (pytest.approx(low), pytest.approx(high))


def test_the_bootstrap_interval_is_bca_of_scipy_and_always_the_same():
    summary = summarize(VALUES, "bootstrap")
    expected = stats.bootstrap((VALUES,), np.mean, method="BCa", rng=np.random.default_rng(0)).confidence_interval
    assert (summary.low, summary.high) == (expected.low, expected.high)
    assert summary == summarize(VALUES, "bootstrap")
    assert summary.low < summary.mean < summary.high


def test_a_known_interval():
    """1, 2, 3: mean 2, sd 1, t(0.975, 2) = 4.3027."""
    summary = summarize([1.0, 2.0, 3.0])
    assert summary.high - summary.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


@pytest.mark.parametrize("interval", ["t", "bootstrap"])
def test_one_seed_says_nothing_of_the_spread_and_equal_ones_have_none(interval):
    one = summarize([0.5], interval)
    assert (one.mean, one.sd, one.low, one.high) == (0.5, None, None, None)
    equal = summarize([0.5, 0.5, 0.5], interval)
    assert (equal.sd, equal.low, equal.high) == (0.0, 0.5, 0.5)


def test_the_paired_t_test_is_that_of_scipy_over_common_seeds():
    first, second = dict(enumerate(VALUES)), dict(enumerate(OTHERS))
    difference = paired_difference({**first, 7: 0.1}, {**second, 9: 0.9})
    expected = stats.ttest_rel(VALUES, OTHERS)
    assert difference.p == pytest.approx(expected.pvalue)
    assert difference.summary.n == 5
    assert difference.summary.mean == pytest.approx(np.mean(VALUES) - np.mean(OTHERS))
    low, high = expected.confidence_interval()
    assert (difference.summary.low, difference.summary.high) == (pytest.approx(low), pytest.approx(high))


def test_wilcoxon_is_that_of_scipy():
    first, second = dict(enumerate(VALUES)), dict(enumerate(OTHERS))
    expected = stats.wilcoxon(np.array(VALUES) - np.array(OTHERS)).pvalue
    assert paired_difference(first, second, test="wilcoxon").p == pytest.approx(expected)


def test_where_no_test_can_be_made():
    assert paired_difference({0: 0.5}, {1: 0.4}).summary is None
    one = paired_difference({0: 0.5, 1: 0.6}, {1: 0.5})
    assert (one.summary.n, one.summary.mean, one.p) == (1, pytest.approx(0.1), None)
    same = paired_difference({0: 0.5, 1: 0.6}, {0: 0.5, 1: 0.6})
    assert same.p == 1.0
    shifted = paired_difference({0: 0.5, 1: 0.6, 2: 0.9}, {0: 0.4, 1: 0.5, 2: 0.8})
    assert shifted.p is None  # SciPy would divide by the rounding error and report p of about 1e-30


def test_holm_on_the_textbook_example():
    """R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_out_what_could_not_be_tested_and_ends_at_one():
    assert holm([None, 0.6, 0.02, None, 0.7]) == [None, 1.0, pytest.approx(0.06), None, 1.0]
    assert holm([]) == []
