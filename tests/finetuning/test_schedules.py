"""Every schedule through an unfreeze: the rate of head and backbone against a literal table."""

from functools import partial

import lightning.pytorch as L
import pytest
import torch

from tlab.core.errors import UserError
from tlab.finetuning import BackboneFinetuning, schedules

# Two epochs for the head, four for everything; two optimiser steps an epoch; SGD with rate 1. The backbone
# runs at half the head's rate, the second phase at a tenth of the first's.
PHASES = {"head": {"train": "head", "epochs": 2}, "all": {"train": "all", "epochs": None, "lr_scale": 0.1}}


class Rates(L.Callback):
    """Notes the rates of the first step of each epoch."""

    def __init__(self):
        self.rows = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            rates = next(c for c in trainer.callbacks if isinstance(c, BackboneFinetuning)).state.rates
            assert rates["stem"] == rates["mid"] == rates["top"]
            self.rows.append((rates["head"], rates["top"]))


TABLES = {
    "constant": (
        schedules.constant,
        [(1.0, 0.0), (1.0, 0.0), (0.1, 0.05), (0.1, 0.05), (0.1, 0.05), (0.1, 0.05)],
    ),
    # 4 steps without warm-up: cos at 0, 2 of 4; then 8 steps: 0, 2, 4, 6 of 8
    "cosine": (
        partial(schedules.cosine, warmup=0.0),
        [(1.0, 0.0), (0.5, 0.0), (0.1, 0.05), (0.0853553, 0.0426777), (0.05, 0.025), (0.0146447, 0.0073223)],
    ),
    # warm-up over 1 of 4 steps (1/2 of the peak first), then over 2 of 8 (1/3, 2/3)
    "cosine with warm-up": (
        partial(schedules.cosine, warmup=0.25),
        [(0.5, 0.0), (0.75, 0.0), (0.0333333, 0.0166667), (0.1, 0.05), (0.075, 0.0375), (0.025, 0.0125)],
    ),
    "onecycle": (
        partial(schedules.onecycle, pct_start=0.5, div_factor=10.0, final_div_factor=10.0),
        [
            (0.1, 0.0),  # the start: a tenth of the peak
            (0.9054634, 0.0),  # a fifth of the way down from 1 to 0.01
            (0.01, 0.005),
            (0.0650134, 0.0325067),  # 4/7 of the way up
            (0.0970148, 0.0485074),  # 1/9 of the way down
            (0.0419044, 0.0209522),  # 5/9
        ],
    ),
    # 2 of the first phase's 4 steps, 4 of the second's 8: thirds, then fifths
    "constant with warm-up": (
        partial(schedules.constant, warmup=0.5),
        [(1 / 3, 0.0), (1.0, 0.0), (0.02, 0.01), (0.06, 0.03), (0.1, 0.05), (0.1, 0.05)],
    ),
    "step": (
        partial(schedules.step, step_size=1, gamma=0.5),
        [(1.0, 0.0), (0.5, 0.0), (0.1, 0.05), (0.05, 0.025), (0.025, 0.0125), (0.0125, 0.00625)],
    ),
    # an impossible threshold: no epoch is ever an improvement, so every second one halves the rate
    "plateau": (
        partial(schedules.plateau, factor=0.5, patience=1, threshold=1e9),
        [(1.0, 0.0), (1.0, 0.0), (0.1, 0.05), (0.1, 0.05), (0.05, 0.025), (0.05, 0.025)],
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_rates_through_an_unfreeze(fit, name):
    schedule, expected = TABLES[name]
    rates = Rates()
    fit(PHASES, 6, schedule, [rates])
    assert [tuple(round(rate, 7) for rate in row) for row in rates.rows] == [
        pytest.approx(row, abs=2e-7) for row in expected
    ]


@pytest.mark.parametrize("name", TABLES)
def test_the_rate_reported_is_the_rate_applied(fit, net, name):
    """Plain SGD moves a weight by exactly rate x gradient."""
    seen = []

    class Moves(L.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.before = net.head.linear.weight.detach().clone()

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            finetuning = next(c for c in trainer.callbacks if isinstance(c, BackboneFinetuning))
            self.rate = finetuning.state.rates["head"]

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            moved = self.before - self.rate * net.head.linear.weight.grad
            torch.testing.assert_close(net.head.linear.weight.detach(), moved)
            seen.append(self.rate)

    fit(PHASES, 6, TABLES[name][0], [Moves()])
    assert len(seen) == 12


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("steps", [1, 3, 9])
def test_a_schedule_goes_on_with_epochs_of_another_number_of_steps(name, steps):
    """After one epoch of three steps, and two steps of the next, which begins anew."""

    def through(epochs: list[int]) -> list[float]:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0, momentum=0.9)
        scheduler = schedules.PhasedScheduler(optimizer, TABLES[name][0])
        scheduler.start_phase(4 * epochs[0], epochs[0])
        rates = []
        for number, length in enumerate(epochs):
            if length != scheduler.length[1]:
                for _ in range(2):
                    optimizer.step()
                    scheduler.after_step()
                scheduler.change_epochs(length)
            for _ in range(length):
                rates.append(optimizer.param_groups[0]["lr"] * scheduler.warmup_factor())
                optimizer.step()
                scheduler.after_step()
            scheduler.after_epoch({"val/loss": torch.tensor(float(number))})
        return rates

    assert through([3, steps, steps, steps])[3:] == pytest.approx(through([steps] * 4)[steps:])


def test_a_metric_that_is_not_there_is_named(fit):
    with pytest.raises(UserError, match=r"scheduler\.monitor=val/nothing is not a metric.*val/loss"):
        fit(PHASES, 6, partial(schedules.plateau, monitor="val/nothing"))
