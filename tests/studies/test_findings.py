"""What a study says of its points, and how sure it is of it."""

import re

import numpy as np
import pytest

from tlab.comparison.statistics import paired_difference
from tlab.studies.findings import findings, how_sure, learning_curves, of_doubling
from tlab.studies.plot import caption
from tlab.studies.points import Figure, Line, Point

SIZES = [20, 40, 80, 160, 320]


def line(name, *values, places=(5, 10, 20, 40, 80), moves=True):
    """A line of points, each with the values of its seeds."""
    places = places if moves else (0,)
    points = [Point(str(x), float(x), dict(enumerate(each))) for x, each in zip(places, values, strict=False)]
    return Line(name, tuple(points), moves)


def figure(*lines, metric="test/acc"):
    return Figure(metric, lines, True, ())


def numbers(text):
    return [float(each) for each in re.findall(r"[-+]?\d+\.\d+", text)]


def curve(*seeds):
    """The learning curve of these seeds' errors at all sizes."""
    points = [1 - np.array(each) for each in zip(*seeds, strict=True)]
    ((only,), _) = learning_curves(figure(line("accuracy", *points, places=SIZES)))
    return only


def test_the_lead_of_two_seeds_has_the_interval_of_student():
    first, second = {0: 0.80, 1: 0.84}, {0: 0.70, 1: 0.71}
    _, told = findings(figure(line("a", second.values()), line("b", first.values())))
    of_t = paired_difference(first, second).summary
    assert numbers(told)[1:] == pytest.approx([100 * each for each in (of_t.mean, of_t.low, of_t.high)], abs=0.05)
    assert of_t.high - of_t.low > 0.2  # 12.7 standard errors on each side


def test_one_seed_has_no_interval_and_that_is_said():
    alone = figure(line("a", [0.7]), line("b", [0.8]))
    assert numbers(findings(alone)[1]) == [80.0, 10.0]
    assert "no interval" in how_sure(alone)
    assert "no interval" in caption(alone, [])


def test_the_best_place_is_told_where_it_is_no_end():
    (told,) = findings(figure(line("a", [0.6], [0.9], [0.7])))
    assert numbers(told) == [60.0, 90.0, 70.0]
    (told,) = findings(figure(line("a", [0.6], [0.9], [0.2]), metric="val/loss"))
    assert numbers(told) == [0.6, 0.2]


def test_a_fixed_line_is_the_reference_of_all():
    _, told = findings(figure(line("scratch", [0.5], moves=False), line("AnB", [0.6], [0.9])))
    assert "against scratch +10.0 points at 5, +40.0 points at 10" in told


def test_an_error_that_does_not_fall_has_no_law():
    flat = curve([0.30, 0.31, 0.30, 0.31, 0.32], [0.31, 0.30, 0.32, 0.31, 0.31])
    (told,) = of_doubling(flat, "test/acc")
    assert "does not fall" in told
    assert "n^" not in told


def test_exponent_and_floor_are_kept_back_where_the_sizes_do_not_tell_them():
    noise = np.array([[-1.0], [1.0], [0.5]])
    blurred = curve(*(0.5 * np.array(SIZES, float) ** -0.1 * (1 + 0.05 * noise)))
    clear = curve(*((9.0 * np.array(SIZES, float) ** -1.0 + 0.1) * (1 + 0.002 * noise)))
    assert "do not tell" in of_doubling(blurred, "test/acc")[1]
    assert "n^-1.00" in of_doubling(clear, "test/acc")[1]
    assert "do not tell" not in of_doubling(clear, "test/acc")[1]


def test_doubling_with_one_seed_has_a_gain_but_no_interval_nor_exponent():
    gain, law, _ = of_doubling(curve([0.5, 0.4, 0.32, 0.26, 0.2]), "test/acc")
    assert "one seed" in gain
    assert "n^" not in law


def test_three_sizes_are_too_few_for_a_law():
    curves, (remark,) = learning_curves(figure(line("accuracy", [0.5], [0.6], [0.65])))
    assert curves == []
    assert remark.startswith("accuracy: no power law")


def test_a_law_is_of_the_seeds_that_most_sizes_share_and_says_what_it_leaves_out():
    errors = np.array([[0.5, 0.4, 0.32, 0.26, 0.2], [0.52, 0.41, 0.33, 0.25, 0.21], [0.51, 0.42, 0.3, 0.26, 0.22]])
    points = [Point(str(n), n, dict(enumerate(1 - of_n))) for n, of_n in zip(SIZES, errors.T, strict=True)]
    one_seed, others = Point("640", 640.0, {0: 0.83}), Point("10", 10.0, {7: 0.4, 8: 0.41})
    ((alone,), told) = learning_curves(figure(Line("accuracy", tuple(points), True)))
    assert told == []
    ((more,), (remark,)) = learning_curves(figure(Line("accuracy", (others, *points, one_seed), True)))
    np.testing.assert_allclose(more.errors, alone.errors)
    assert more.sizes.tolist() == SIZES
    assert "without 3 other runs (at 10, 640)" in remark


def test_no_law_says_how_many_sizes_a_seed_has_at_most():
    points = [Point(str(n), n, {seed: 0.5}) for n, seed in zip(SIZES, (0, 0, 0, 1, 1), strict=True)]
    curves, (remark,) = learning_curves(figure(Line("accuracy", tuple(points), True)))
    assert curves == []
    assert remark.endswith("there are 3.")
