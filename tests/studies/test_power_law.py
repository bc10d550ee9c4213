"""The fitted law of learning curves."""

import numpy as np
import pytest

from tlab.studies.power_law import fit, resampled

SIZES = [20, 40, 80, 160, 320]


@pytest.mark.parametrize(("a", "b", "c"), [(2.0, 0.5, 0.05), (1.5, 0.35, 0.0), (0.9, 1.2, 0.2), (0.0, 1.0, 0.3)])
def test_a_law_is_found_again_and_goes_on(a, b, c):
    def law(n):
        return a * np.asarray(n, float) ** -b + c

    found = fit(SIZES, law(SIZES))
    np.testing.assert_allclose(found.error([640])[0], law([640]), rtol=0.01)
    if a:
        assert found.b[0] == pytest.approx(b, abs=0.02)
        assert found.c[0] == pytest.approx(c, abs=0.01)


def test_several_laws_are_fitted_as_each_alone():
    errors = np.random.default_rng(1).uniform(0.05, 0.5, (3, 5))
    together = fit(SIZES, errors).error(SIZES)
    np.testing.assert_allclose(together, np.concatenate([fit(SIZES, row).error(SIZES) for row in errors]))


def test_no_law_rises_or_has_a_negative_floor():
    rising = fit(SIZES, [0.1, 0.2, 0.3, 0.4, 0.5])
    falling_fast = fit(SIZES, [0.5, 0.2, 0.05, 0.0, 0.0])
    assert rising.a[0] == 0
    assert (np.diff(falling_fast.error(SIZES)[0]) < 0).all()
    assert falling_fast.c[0] >= 0


def test_the_interval_over_seeds_holds_the_law_that_they_vary_around():
    rng, truth = np.random.default_rng(0), 1.2 * np.array(SIZES, float) ** -0.4 + 0.04
    errors = truth * rng.normal(1.0, 0.05, (8, 5))
    laws = resampled(SIZES, errors)
    low, high = np.quantile(laws.error([640])[:, 0], [0.025, 0.975])
    assert low < 1.2 * 640**-0.4 + 0.04 < high
    assert high - low < 0.05
    assert resampled(SIZES, errors[:1]) is None
