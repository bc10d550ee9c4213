"""When a run writes its checkpoints, and what is in them."""

import pickle
from functools import partial
from pathlib import Path

import pytest
import torch

from tlab.core.errors import NotFinite
from tlab.models.module import ImageClassifier
from tlab.runs.checkpoints import AtomicCheckpointIO, LastCheckpoint, on_host
from tlab.runs.directory import RunDirectory
from tlab.train import train

SMALL = ("trainer.max_epochs=5", "finetune.head_epochs=2")


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


@pytest.mark.parametrize(
    ("failure", "plan", "written"),
    [(NotFinite("NaN"), "finetune=full", -1), (KeyboardInterrupt(), "finetune=lp_ft", 0)],
)
def test_a_run_that_fails_keeps_its_best_epoch_and_goes_on_from_it(
    compose_quick, tmp_path, monkeypatch, failure, plan, written
):
    """Also where an earlier phase has left a `last.ckpt`."""
    cfg = partial(compose_quick, plan, "finetune.head_epochs=1", "trainer.max_epochs=4")
    whole = train(cfg(run_dir=tmp_path / "whole")) | {"fit_seconds": 0}
    run, step = RunDirectory(tmp_path / "run"), ImageClassifier.training_step

    def fail_in_the_last_epoch(self, batch, batch_idx):
        if self.current_epoch == 3:
            raise failure
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "training_step", fail_in_the_last_epoch)
        with pytest.raises((type(failure), SystemExit)):
            train(cfg(run_dir=run.path))
    rows = run.history()
    best = max(rows, key=lambda row: (float(row["val/acc"]), -float(row["val/loss"])))
    assert len(rows) == 3
    assert int(best["epoch"]) > written, "else it has been written in time"
    for file in (run.best, run.last):
        assert torch.load(file, weights_only=True)["epoch"] == int(best["epoch"])
    assert run.status == "failed"
    assert train(cfg(run_dir=run.path)) | {"fit_seconds": 0} == whole


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


def test_what_waits_is_in_the_host_s_memory_apart_from_what_goes_on():
    """Also what optimisers and callbacks hold; tied weights stay tied, and what is frozen is the same tensor."""
    maps = torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    frozen, tied = torch.ones(3), torch.arange(4.0)
    checkpoint = {
        "state_dict": {"frozen": frozen, "maps": maps, "one": tied.view(2, 2), "other": tied[2:]},
        "optimizer_states": [{"state": {0: {"momentum_buffer": tied.clone(), "step": torch.tensor(3.0)}}}],
        "callbacks": {"a": {"best": torch.tensor(0.5), "rows": [{"epoch": 0}], "counts": (maps, None)}},
        "epoch": 3,
    }
    kept = on_host(checkpoint, stays=lambda tensor: tensor.data_ptr() == frozen.data_ptr())
    before, after = list(_leaves(checkpoint)), list(_leaves(kept))
    assert [type(leaf) for leaf in before] == [type(leaf) for leaf in after]
    for old, new in zip(before, after, strict=True):
        if not isinstance(old, torch.Tensor):
            assert old == new
            continue
        assert torch.equal(old, new)
        assert (old.stride(), old.dtype, new.device.type) == (new.stride(), new.dtype, "cpu")
        assert (old.data_ptr() == new.data_ptr()) == (old is frozen)
    assert kept["state_dict"]["maps"] is kept["callbacks"]["a"]["counts"][0]
    kept["state_dict"]["one"][1, 0] = 9
    assert kept["state_dict"]["other"].tolist() == [9, 3]
    checkpoint["callbacks"]["a"]["rows"].append(1)
    assert kept["callbacks"]["a"]["rows"] == [{"epoch": 0}]


def _leaves(content):
    if isinstance(content, dict | list | tuple):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _leaves(part)
    else:
        yield content


def test_reading_a_checkpoint_runs_no_code_whatever_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"state_dict": partial(print, "ran")}, tmp_path / "last.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        AtomicCheckpointIO(RunDirectory(tmp_path)).load_checkpoint(tmp_path / "last.ckpt", weights_only=None)


def test_a_run_reads_its_checkpoints_into_the_host_s_memory(compose_run, monkeypatch):
    """When it goes on, and to test: else all processes of a run would put theirs on the first GPU."""
    seen, load = [], torch.load

    def note_and_load(*args, **options):
        seen.append((options.get("map_location"), options.get("weights_only")))
        return load(*args, **options)

    small = compose_run("finetune=head", "finetune.head_epochs=null", "checkpoint.every_n_steps=1")
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "finish", lambda *args, **entries: {}["a power cut"])
        with pytest.raises(KeyError):
            train(small)
    monkeypatch.setattr(torch, "load", note_and_load)
    train(small)
    assert seen
    assert set(seen) == {("cpu", True)}


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
