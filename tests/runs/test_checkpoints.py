"""When a run writes its checkpoints, and what is in them."""

from pathlib import Path

import pytest
import torch

from tlab.runs.checkpoints import AtomicCheckpointIO, LastCheckpoint
from tlab.runs.directory import RunDirectory
from tlab.train import train

SMALL = ("backbone=mobilenet_v3_small", "trainer.max_epochs=5", "finetune.head_epochs=2")


@pytest.fixture
def saves(monkeypatch):
    """Epochs at whose end `last.ckpt` was written."""
    epochs = []
    save = LastCheckpoint.save

    def note_and_save(self, trainer):
        epochs.append(trainer.current_epoch)
        save(self, trainer)

    monkeypatch.setattr(LastCheckpoint, "save", note_and_save)
    return epochs


def test_short_epochs_are_saved_where_a_phase_ends(compose_run, saves):
    train(compose_run(*SMALL))
    assert saves == [1, 4]


def test_long_epochs_are_all_saved(compose_run, saves, monkeypatch):
    monkeypatch.setattr("tlab.runs.checkpoints.EVERY_SECONDS", 0.0)
    train(compose_run(*SMALL))
    assert saves == [0, 1, 2, 3, 4]


def test_an_early_end_is_saved(compose_run, saves):
    train(compose_run(*SMALL, "trainer.early_stopping=1", "optimizer.lr=1e-30"))
    assert saves == [1, saves[-1]]
    assert 1 < saves[-1] < 4  # the last phase, which began at epoch 2, has nothing to gain


def test_the_best_checkpoint_is_that_of_its_epoch_however_rarely_it_is_written(compose_run, tmp_path, monkeypatch):
    train(compose_run(*SMALL, run_dir=tmp_path / "rarely"))
    monkeypatch.setattr("tlab.runs.checkpoints.EVERY_SECONDS", 0.0)
    train(compose_run(*SMALL, run_dir=tmp_path / "always"))
    for name in ("best", "last"):
        rarely, always = (
            torch.load(tmp_path / run / f"checkpoints/{name}.ckpt", weights_only=True)
            for run in ("rarely", "always")
        )
        assert (rarely["epoch"], rarely["global_step"]) == (always["epoch"], always["global_step"])
        assert [
            key for key in rarely["state_dict"] if not rarely["state_dict"][key].equal(always["state_dict"][key])
        ] == []


def test_the_best_waits_for_the_last_and_goes_before_it(tmp_path, monkeypatch):
    moved, move = [], Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda source, target: (move(source, target), moved.append(target.name))[0]
    )
    run = RunDirectory(tmp_path)
    writer = AtomicCheckpointIO(run)
    frozen, trained, rows = torch.zeros(2), torch.zeros(2), [1]
    writer.frozen = lambda: {frozen.data_ptr()}
    checkpoint = {"state_dict": {"a": frozen, "b": trained}, "rows": rows}
    writer.save_checkpoint(checkpoint, run.best)
    assert not run.best.exists()
    trained += 1  # the next step
    rows.append(2)
    writer.save_checkpoint(checkpoint, run.last)
    best, last = (torch.load(file, weights_only=True) for file in (run.best, run.last))
    assert (best["state_dict"]["b"].tolist(), best["rows"]) == ([0, 0], [1])
    assert (last["state_dict"]["b"].tolist(), last["rows"]) == ([1, 1], [1, 2])
    assert moved == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_of_equal_epochs_the_one_with_the_lower_loss_is_kept(compose_run, tmp_path, mode):
    """Some epochs have the same accuracy on six validation images; their losses differ."""
    one = ("data.batch_size=6", "trainer.limit_val_batches=1", "optimizer.lr=1e-3", f"checkpoint.mode={mode}")
    metrics = train(compose_run(*SMALL, *one))
    run = RunDirectory(tmp_path / "run")
    rows = run.history()
    tied = [row for row in rows if float(row["val/acc"]) == metrics["val/acc"]]
    assert len({row["val/loss"] for row in tied}) == len(tied) > 1
    lowest = min(tied, key=lambda row: float(row["val/loss"]))
    assert metrics["best_epoch"] == int(lowest["epoch"])
    assert metrics["val/loss"] == float(lowest["val/loss"])
    assert torch.load(run.best, weights_only=True)["epoch"] == int(lowest["epoch"])
