"""How often the processes of a run ask each other whether to stop, and when they do."""

import os
import signal
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from tlab.runs import graceful_stop
from tlab.runs.graceful_stop import GracefulStop, StopSignals


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the steps move."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(graceful_stop, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def asked_at(monkeypatch, clock):
    """When the first of two processes has exchanged words with the other, which has nothing to say."""
    times = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda words, op: times.append(clock.now))
    return times


def train(stop, clock, seconds, accumulate=1):
    """Go through an epoch whose batches take so long each; returns the trainer, of the first of two processes."""
    trainer = SimpleNamespace(
        world_size=2,
        is_global_zero=True,
        accumulate_grad_batches=accumulate,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    stop.on_train_epoch_start(trainer, None)
    for index, step in enumerate(seconds):
        clock.now += step
        trainer.is_last_batch = index + 1 == len(seconds)
        stop.on_train_batch_end(trainer, None, None, None, index)
    return trainer


@pytest.mark.parametrize("accumulate", [1, 4])
def test_fast_steps_ask_about_once_a_second(clock, asked_at, accumulate):
    stop = GracefulStop(StopSignals(), last=None)
    train(stop, clock, [0.02 / accumulate] * 3000 * accumulate, accumulate)  # a minute of optimiser steps
    assert 50 <= len(asked_at) <= 70
    assert max(later - before for before, later in pairwise(asked_at)) < 1.1


def test_steps_that_become_slower_are_asked_after_again(clock, asked_at):
    """Those of another phase at once, those inside an epoch after the hundred that were counted on at most."""
    stop = GracefulStop(StopSignals(), last=None)
    train(stop, clock, [0.001] * 1000)
    asked_at.clear()
    train(stop, clock, [0.4] * 20)
    assert max(later - before for before, later in pairwise(asked_at)) < 1.3
    asked_at.clear()
    train(stop, clock, [0.001] * 1000 + [0.5] * 300)
    gaps = [later - before for before, later in pairwise(asked_at)]
    assert max(gaps) <= 100 * 0.5
    assert max(gaps[-20:]) < 1.3


def test_every_epoch_ends_with_a_question(clock, asked_at):
    stop = GracefulStop(StopSignals(), last=None)
    trainer = train(stop, clock, [0.001] * 50)
    asked_at.clear()
    stop.on_train_epoch_end(trainer, None)
    assert len(asked_at) == 1


def test_a_signal_to_the_other_process_stops_this_one_within_a_second(clock, monkeypatch):
    saved, came = [], clock.now + 7.77

    def all_reduce(words, op):
        words[0] = max(int(words[0]), clock.now >= came)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    stop = GracefulStop(StopSignals(), SimpleNamespace(save=lambda trainer: saved.append(clock.now)))
    with pytest.raises(SystemExit) as end:
        train(stop, clock, [0.02] * 3000)
    assert end.value.code == 128 + signal.SIGTERM
    assert 0 <= saved[0] - came <= 1.1


def signaled(error=None):
    """A run that gets a signal while it trains, and ends before it looks for one."""
    with StopSignals() as signals:
        signals.training = True
        os.kill(os.getpid(), signal.SIGTERM)
        if error is not None:
            raise error


def test_a_signal_that_nothing_has_obeyed_ends_the_process_after_the_run():
    with pytest.raises(SystemExit) as end:
        signaled()
    assert end.value.code == 128 + signal.SIGTERM
    with pytest.raises(ValueError, match="its own"):
        signaled(ValueError("its own"))


@pytest.mark.skipif(sys.platform == "win32", reason="no hang-up")
@pytest.mark.parametrize(("before", "stops"), [("SIG_DFL", True), ("SIG_IGN", False)])
def test_a_closed_terminal_stops_a_run_unless_nohup_says_otherwise(before, stops):
    code = f"import signal; signal.signal(signal.SIGHUP, signal.{before}); from tlab.core.signals import STOPPING"
    ran = subprocess.run([sys.executable, "-c", f"{code}; print(signal.SIGHUP in STOPPING)"], capture_output=True)
    assert ran.stdout.decode().strip() == str(stops)
