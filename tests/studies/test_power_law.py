"""The fitted law of learning curves."""

import numpy as np
import pytest
from scipy import stats

from tlab.studies.power_law import compatible, fit

SIZES = [20, 40, 80, 160, 320]


def gains(laws):
    return -np.diff(laws.error([320, 640]))[:, 0]


@pytest.mark.parametrize(("a", "b", "c"), [(2.0, 0.5, 0.05), (1.5, 0.35, 0.0), (0.9, 1.2, 0.2), (0.0, 1.0, 0.3)])
def test_a_law_is_found_again_and_goes_on(a, b, c):
    def law(n):
        return a * np.asarray(n, float) ** -b + c

    found = fit(SIZES, law(SIZES))
    np.testing.assert_allclose(found.error([640])[0], law([640]), rtol=0.01)
    if a:
        assert found.b[0] == pytest.approx(b, abs=0.02)
        assert found.c[0] == pytest.approx(c, abs=0.01)


def test_no_law_rises_or_has_a_negative_floor():
    rising = fit(SIZES, [0.1, 0.2, 0.3, 0.4, 0.5])
    falling_fast = fit(SIZES, [0.5, 0.2, 0.05, 0.0, 0.0])
    assert rising.a[0] == 0
    assert (np.diff(falling_fast.error(SIZES)[0]) < 0).all()
    assert falling_fast.c[0] >= 0


@pytest.mark.parametrize("seeds", [2, 3])
def test_the_interval_of_few_seeds_holds_the_truth_as_often_as_it_says(seeds):
    rng, truth = np.random.default_rng(0), 1.5 * np.array(SIZES, float) ** -0.24
    gain = 1.5 * (320**-0.24 - 640**-0.24)
    held = []
    for _ in range(60):
        found = gains(compatible(SIZES, truth * rng.normal(1.0, 0.06, (seeds, 5))))
        held.append(found.min() <= gain <= found.max())
    assert np.mean(held) >= 0.88  # of 0.95, three standard errors of 60 below


def test_what_the_seeds_do_not_rule_out_fits_nearly_as_well_and_narrows_with_them():
    truth = 1.2 * np.array(SIZES, float) ** -0.4 + 0.04
    errors = truth * np.random.default_rng(0).normal(1.0, 0.05, (2, 5))
    few, many = compatible(SIZES, errors), compatible(SIZES, np.tile(errors, (4, 1)))
    assert np.ptp(gains(many)) < np.ptp(gains(few))
    assert np.abs(few.error(SIZES) - errors.mean(axis=0)).max() < 0.06
    assert min(few.a.min(), few.c.min()) >= 0


def test_no_law_is_kept_that_the_seeds_rule_out_where_the_best_floor_would_be_below_0():
    errors = np.array([[0.5, 0.25, 0.12, 0.05, 0.01], [0.52, 0.24, 0.13, 0.045, 0.012]])
    mean, weights = errors.mean(axis=0), 1 / errors.mean(axis=0) ** 2
    losses = (compatible(SIZES, errors).error(SIZES) - mean) ** 2 @ weights
    noise = ((errors - mean) ** 2 @ weights).sum() / 5  # degrees of freedom of two seeds at five sizes
    assert fit(SIZES, mean).c[0] == 0
    assert losses.max() <= losses[0] + noise / 2 * stats.t.ppf(0.975, 5) ** 2 + 1e-9


def test_an_exponent_is_told_only_where_the_sizes_tell_it_from_a_floor():
    wide, noise = [20, 80, 320, 1280, 5120, 20480], np.array([[-1.0], [1.0], [-1.0], [1.0]])
    steep = 2.0 * np.array(wide, float) ** -0.5 + 0.05
    shallow = 0.5 * np.array(SIZES, float) ** -0.1
    assert compatible(wide, steep * (1 + 0.01 * noise)).is_told
    assert not compatible(SIZES, shallow * (1 + 0.05 * noise)).is_told


def test_nothing_is_said_of_one_seed_or_of_equal_ones():
    errors = np.array([[0.5, 0.4, 0.3, 0.25, 0.2]])
    assert compatible(SIZES, errors) is None
    assert compatible(SIZES, np.repeat(errors, 3, axis=0)) is None
