"""The clock and the rows of a run."""

from types import SimpleNamespace

import pytest
import torch

from tlab.data.batch import Batch
from tlab.finetuning import PhaseRecord, RunState, build_plan
from tlab.runs.directory import RunDirectory
from tlab.runs.history import RunRecorder

BATCH = Batch(torch.zeros(12, 3, 2, 2), torch.zeros(12), torch.zeros(12))
MODULE = SimpleNamespace(device=torch.device("cpu"))


def trainer(epoch, **metrics):
    return SimpleNamespace(
        current_epoch=epoch,
        world_size=1,
        is_global_zero=True,
        is_last_batch=False,
        callback_metrics={name.replace("_", "/", 1): torch.tensor(value) for name, value in metrics.items()},
    )


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tlab.runs.history.time.perf_counter", lambda: now[0])
    return now


def state(**rates):
    """The state of a run in its one phase."""
    return RunState(build_plan({"head": {"train": "head", "epochs": None}}, 9, ("stem",)), rates=rates)


@pytest.fixture
def recorder(tmp_path):
    return RunRecorder(RunDirectory(tmp_path), state(head=0.1))


def batches(recorder, clock, count, trainer):
    for index in range(count):
        recorder.on_train_batch_start(trainer, MODULE, BATCH, index)
        clock[0] += 2.0
        recorder.on_train_batch_end(trainer, MODULE, None, BATCH, index)


def test_speed_leaves_validation_out(recorder, clock):
    end = trainer(0, val_acc=0.5)
    recorder.on_train_start(end, MODULE)
    clock[0] += 1.0  # what the phase computes in advance
    recorder.on_train_epoch_start(end, MODULE)
    batches(recorder, clock, 3, end)
    clock[0] += 100.0  # validation
    recorder.on_train_epoch_end(end, MODULE)
    (row,) = recorder.state.rows
    assert (row["seconds"], row["images_per_second"]) == (107.0, 6.0)
    assert recorder.state.fit_seconds == 107.0


def test_an_epoch_that_was_interrupted_is_one_row(recorder, clock, tmp_path):
    recorder.on_train_epoch_start(trainer(0), MODULE)
    batches(recorder, clock, 2, trainer(0))
    kept = recorder.state_dict()

    again = RunRecorder(RunDirectory(tmp_path), state(head=0.05))
    again.load_state_dict(kept)
    clock[0] += 1000.0  # the time between the two is nobody's
    end = trainer(0, val_acc=0.5)
    again.on_train_start(end, MODULE)
    batches(again, clock, 1, end)
    again.on_train_epoch_end(end, MODULE)
    (row,) = again.state.rows
    assert (row["seconds"], row["images_per_second"], row["lr/head"]) == (6.0, 6.0, 0.1)


def test_speed_of_a_phase(recorder, clock):
    for epoch, validation in enumerate((4.0, 8.0)):
        end = trainer(epoch, val_acc=0.5)
        recorder.on_train_epoch_start(end, MODULE)
        batches(recorder, clock, 1, end)
        clock[0] += validation
        recorder.on_train_epoch_end(end, MODULE)
    recorder.state.records = [PhaseRecord("head", ["head"], start=0, length=2, epochs=2)]
    (summary,) = recorder.state.phase_summaries()
    assert (summary["seconds"], summary["images_per_second"]) == (16.0, 6.0)


def ended(recorder, *epochs, first=0):
    """Tell the recorder of epochs with these metrics; returns the best so far."""
    for number, metrics in enumerate(epochs, start=first):
        recorder.on_train_epoch_end(trainer(number, **metrics), MODULE)
    return recorder.state.best_epoch


def test_of_equal_epochs_the_one_with_the_lower_loss_is_the_best(recorder):
    epochs = [
        {"val_acc": 0.8, "val_loss": 0.1},
        {"val_acc": 0.9, "val_loss": 0.5},
        {"val_acc": 0.9, "val_loss": 0.4},
        {"val_acc": 0.9, "val_loss": 0.4},
    ]
    assert [ended(recorder, epoch, first=number) for number, epoch in enumerate(epochs)] == [0, 1, 2, 2]
    assert recorder.state.summary()["val/loss"] == pytest.approx(0.4)


def test_an_epoch_without_a_number_is_never_better(tmp_path):
    recorder = RunRecorder(RunDirectory(tmp_path), state(), "val/loss", "min")
    assert ended(recorder, {"val_loss": float("nan")}, {"val_loss": 3.0}, {"val_loss": float("nan")}) == 1


@pytest.mark.parametrize("key", ["best_epoch", "of an earlier version"])
def test_a_recorder_that_goes_on_keeps_the_best_epoch(recorder, tmp_path, key):
    """A checkpoint of an earlier version has kept the first of equals as its best."""
    ended(recorder, {"val_acc": 0.9, "val_loss": 0.5}, {"val_acc": 0.9, "val_loss": 0.4})
    kept = recorder.state_dict()
    if key != "best_epoch":
        del kept["best_epoch"]
    again = RunRecorder(RunDirectory(tmp_path), state())
    again.load_state_dict(kept)
    assert again.state.best_epoch == (1 if key == "best_epoch" else 0)
    assert ended(again, {"val_acc": 0.9, "val_loss": 0.3}, first=2) == 2
