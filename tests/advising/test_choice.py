"""The measured choice, the rule of the CS231n notes, and how the constants of the first are fitted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from advice_grid import Pair, Run, fit, threshold
from tlab.advising.choice import CONSTANTS, PLANS, Case, Constants, sampling_error
from tlab.advising.rule import FEW, Thresholds, cs231n_rule
from tlab.advising.similarity import Similarity

THRESHOLDS = Thresholds(statistics=0.9, confidence=0.7)
PLANTED = {"head": 0.0, "cut": 0.01, "last": 0.02, "lp_ft": 0.03, "full": -0.05}


def planted(noise: float = 0.0) -> tuple[list[Run], dict[tuple[str, str], Pair]]:
    """Runs on four sets, in which each plan has a gain of its own over the probe."""
    runs, pairs = [], {}
    for number, name in enumerate("abcd"):
        case = Case(0.95 - 0.1 * number, 0.8 - 0.1 * number)
        pairs[name, "net"] = Pair(case, case, 50.0, Similarity(0.95 - 0.02 * number))
        for place, (plan, gain) in enumerate(PLANTED.items()):
            moved = case.base(plan) + gain + noise * (-1) ** (number + place)
            for seed in (0, 1):
                images = {"val": 10_000, "test": 10_000}
                runs.append(Run(Path(name), "net", "w", plan, None, seed, moved, moved, images, 96, 8))
    return runs, pairs


def planted_constants(doubts: dict[str, float]) -> Constants:
    return Constants(PLANTED, {**doubts, "lp_ft": 0.0}, 0.02, 1.0, 2.0, THRESHOLDS, 8, 96)


def test_a_fit_finds_the_gains_and_how_sure_they_are():
    runs, pairs = planted()
    constants = fit(runs, pairs, photographs={"a", "b"})
    assert constants.gains == pytest.approx(PLANTED)
    assert constants.doubts == pytest.approx(dict.fromkeys(PLANS, 0), abs=1e-9)
    assert constants.spread == 0
    assert 0.91 < constants.similar.statistics < 0.93  # between b and c
    noisy, _ = planted(0.05)
    unsure = fit(noisy, pairs, {"a", "b"})
    assert unsure.spread == pytest.approx(0.05, rel=0.5)
    assert unsure.doubts["lp_ft"] == 0
    assert unsure.doubts["cut"] == pytest.approx(0)  # moved as lp_ft is
    assert unsure.doubts["head"] > 0.1


def test_a_plan_is_taken_for_the_default_one_only_if_its_lead_is_clear():
    constants = planted_constants(dict.fromkeys(PLANS, 0.02))
    assert constants.choose(Case(0.8, None)) == "lp_ft"
    assert constants.choose(Case(0.8, 0.85)) == "lp_ft"  # leads by 3 points, known to 4
    assert constants.choose(Case(0.8, 0.87)) == "cut"
    assert constants.choose(Case(0.8, 0.87, cut_error=0.05)) == "lp_ft"  # few images know the probes' lead badly
    better = replace(constants, gains={**PLANTED, "full": 0.08})
    assert better.choose(Case(0.8, None)) == "full"


def test_the_interval_is_as_wide_as_sets_left_out_were_missed():
    """Each set lies 3 points from what the others let expect, up and down."""
    runs, pairs = planted()
    moves = {"a": -0.03, "b": 0.03, "c": -0.03, "d": 0.03}
    moved = [replace(run, val=run.val + moves[run.root.name], test=run.test + moves[run.root.name]) for run in runs]
    constants = fit(moved, pairs, {"a", "b"})
    for run in moved:
        expected = constants.expect(run.plan, pairs[run.pair].case, 10_000)
        assert expected.low < run.val < expected.high < run.val + 0.1
    exact = fit(runs, pairs, {"a", "b"}).expect("lp_ft", Case(0.5, None), 10_000)
    assert exact.high - exact.low < 0.01


def test_a_probe_of_few_images_widens_the_interval():
    constants = Constants.read()
    sure, unsure = (constants.expect("head", Case(0.8, None, error=error), 200) for error in (0.01, 0.2))
    assert unsure.mean == sure.mean
    assert unsure.low < sure.low - 0.1
    assert [sampling_error(1.0, images) for images in (1, 4, 0)] == pytest.approx([0.4899, 0.2165, 0], abs=1e-4)


def test_fewer_images_widen_the_interval_and_it_stays_within_bounds():
    constants, case = Constants.read(), Case(0.9, 0.8)
    wide, narrow, narrowest = (constants.expect("head", case, images) for images in (20, 2_000, 0))
    assert wide.mean == narrow.mean
    assert wide.low < narrow.low < narrowest.low <= narrow.mean <= narrowest.high < narrow.high <= wide.high <= 1
    sure = constants.expect("lp_ft", Case(1.0, None), 50)
    assert 0 <= sure.low < sure.mean <= sure.high == 1


def test_the_constants_that_come_with_tlab_are_whole():
    constants = Constants.read()
    assert constants.gains.keys() == PLANS.keys()
    assert constants.doubts.keys() == PLANS.keys()
    assert 0 <= constants.spread < 0.2
    file = Path(__file__).parents[2] / "src/tlab/advising" / CONSTANTS
    assert json.loads(file.read_text())["runs"] >= 80


@pytest.mark.parametrize(
    ("images", "statistics", "plan"),
    [(FEW - 1, 0.95, "head"), (FEW - 1, 0.85, "cut"), (FEW, 0.95, "full"), (FEW, 0.85, "full")],
)
def test_the_courses_rule(images, statistics, plan):
    answer = cs231n_rule(images, Similarity(statistics, 0.8), THRESHOLDS)
    assert answer.plan == plan


def test_the_rule_asks_the_classifier_where_there_are_no_statistics_and_says_where_nothing_tells():
    assert cs231n_rule(10, Similarity(None, 0.5), THRESHOLDS).plan == "cut"
    assert cs231n_rule(10, Similarity(None, 0.8), THRESHOLDS).plan == "head"
    blind = cs231n_rule(10, Similarity(), THRESHOLDS)
    assert blind.plan == "head"
    assert "nothing tells" in blind.because


def test_a_threshold_parts_with_the_fewest_errors():
    assert threshold([(0.1, False), (0.2, False), (0.8, True), (None, True)]) == pytest.approx(0.5)
    assert threshold([(0.1, False), (0.5, True), (0.6, False), (0.7, True), (0.9, True)]) == pytest.approx(0.3)
