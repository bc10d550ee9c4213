"""Main effects on grids with known answers."""

import itertools

import numpy as np
import pytest
from scipy import stats

from tlab.comparison.effects import main_effects
from tlab.comparison.factors import Factor
from tlab.comparison.statistics import summarize

A = Factor("a", ("a0", "a1"))
B = Factor("b", ("b0", "b1", "b2"))
A_EFFECT = {"a0": 0.0, "a1": 0.1}
B_EFFECT = {"b0": 0.0, "b1": 0.02, "b2": 0.04}
GRID = list(itertools.product(A.levels, B.levels))


def additive(setting):
    return 0.5 + A_EFFECT[setting[0]] + B_EFFECT[setting[1]]


def by_name(effects):
    return {effect.factor: effect for effect in effects.factors}


def test_a_full_grid_gives_means_of_levels_and_shares_of_an_analysis_of_variance():
    rng = np.random.default_rng(0)
    means = {setting: additive(setting) + rng.normal(0, 0.02) for setting in GRID}
    effects = main_effects((A, B), GRID, [summarize([mean]) for mean in means.values()])
    table = np.array([[means[a, b] for b in B.levels] for a in A.levels])
    grand, total = table.mean(), ((table - table.mean()) ** 2).sum()
    found = by_name(effects)
    assert [level.mean for level in found["a"].levels] == pytest.approx(table.mean(1))
    assert [level.mean for level in found["b"].levels] == pytest.approx(table.mean(0))
    assert found["a"].share == pytest.approx(3 * ((table.mean(1) - grand) ** 2).sum() / total)
    assert found["b"].share == pytest.approx(2 * ((table.mean(0) - grand) ** 2).sum() / total)
    assert found["a"].share + found["b"].share + effects.rest == pytest.approx(1)
    assert effects.factors[0].factor == "a"


def test_a_grid_with_gaps_still_finds_additive_effects():
    """Raw means would blame a for what b does: a0 is tried with b0 only where a1 is tried with all."""
    tried = [("a0", "b0"), ("a0", "b1"), ("a1", "b0"), ("a1", "b1"), ("a1", "b2")]
    effects = by_name(main_effects((A, B), tried, [summarize([additive(s)]) for s in tried]))
    low, high = effects["a"].levels
    assert high.mean - low.mean == pytest.approx(0.1)
    b = [level.mean for level in effects["b"].levels]
    assert b[2] - b[0] == pytest.approx(0.04)


def test_factors_that_always_change_together_are_said_to_be_inseparable():
    tried = [("a0", "b0"), ("a1", "b1")]
    effects = by_name(main_effects((A, B), tried, [summarize([additive(s)]) for s in tried]))
    assert not effects["a"].separable
    assert [level.mean for level in effects["a"].levels] == pytest.approx([0.5, 0.62])


def test_intervals_come_from_the_pooled_spread_between_seeds():
    values = {s: [additive(s) - 0.01, additive(s) + 0.01] for s in GRID}
    effects = main_effects((A, B), GRID, [summarize(v) for v in values.values()])
    sd = np.std([-0.01, 0.01], ddof=1)
    assert effects.seed_sd == pytest.approx(sd)
    half = stats.t.ppf(0.975, 6) * sd / np.sqrt(6)  # three settings of two seeds each
    assert [level.half_width for level in by_name(effects)["a"].levels] == pytest.approx([half, half])


def test_a_number_with_many_levels_is_cut_into_ranges():
    factor = Factor("lr", tuple(str(i) for i in range(1, 13)))
    effects = main_effects(
        (factor,), [(level,) for level in factor.levels], [summarize([0.1])] * 6 + [summarize([0.2])] * 6
    )
    (effect,) = effects.factors
    assert [level.name for level in effect.levels] == ["1–3", "4–6", "7–9", "10–12"]
    assert [level.settings for level in effect.levels] == [3, 3, 3, 3]
    assert [level.mean for level in effect.levels] == pytest.approx([0.1, 0.1, 0.2, 0.2])


def test_nothing_that_varies_has_no_effects():
    assert main_effects((), [()], [summarize([0.5])]) is None
    assert main_effects((A,), [("a0",), ("a1",)], [summarize([0.5])] * 2) is None
