from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest

from tlab.dashboards.lr_curve import draw_lr_curve, lr_figure
from tlab.finetuning import LearningRateFinder

RATES = np.geomspace(1e-6, 10, 100)
LOSSES = [*(1 / (1 + rate / 1e-2) for rate in RATES[:90]), *([50.0] * 10)]


def curve(suggestion):
    return SimpleNamespace(rates=RATES, losses=LOSSES, smoothed=LOSSES, suggestion=suggestion, in_use=0.03)


@pytest.mark.parametrize("suggestion", [0.01, None])
def test_the_marks_stand_at_their_rates(suggestion):
    axes = lr_figure(curve(suggestion), "Phase head").axes[0]
    marks = {line.get_label(): line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2}
    expected = {"in use: 0.03": 0.03}
    if suggestion:
        expected["suggested: 0.01"] = 0.01
    assert marks == expected
    assert axes.get_xscale() == "log"


def test_the_descent_fills_the_height_whatever_the_divergence():
    figure = lr_figure(curve(0.01), "Phase $odd")  # no formula
    figure.savefig(BytesIO())
    low, high = figure.axes[0].get_ylim()
    assert -1 < low < min(LOSSES)
    assert 1 < high < 2


def test_a_curve_without_points_is_drawn():
    empty = SimpleNamespace(rates=[], losses=[], smoothed=[], suggestion=None, in_use=0.03)
    figure = lr_figure(empty, "Phase head")
    figure.savefig(BytesIO())
    assert [line.get_label() for line in figure.axes[0].lines][-1] == "in use: 0.03"


def test_one_figure_for_each_phase(fit, events, state):
    fit(LearningRateFinder(state, draw_lr_curve, steps=4))
    tags = events().Tags()["tensors"] + events().Tags()["images"]
    assert {tag for tag in tags if tag.startswith("lr_finder")} == {"lr_finder/head", "lr_finder/all"}


def test_nothing_is_drawn_without_a_board(fit, tmp_path):
    class Draws(LearningRateFinder):
        def __init__(self):
            pass

        def on_train_epoch_start(self, trainer, pl_module):
            draw_lr_curve(trainer, "head", curve(None))

    fit(Draws(), logger=False)
    assert not list(tmp_path.glob("events*"))
