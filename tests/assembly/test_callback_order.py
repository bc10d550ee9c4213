"""The order of the callbacks: who writes the run's state stands before who reads it."""

from types import SimpleNamespace

import lightning.pytorch as L
import numpy
import pytest
import torch
from lightning.pytorch.callbacks import ProgressBar

from tlab.assembly.callbacks import build_callbacks, build_refit_callbacks
from tlab.core.errors import UserError
from tlab.finetuning import RunState, build_plan
from tlab.runs.checkpoints import check_states
from tlab.runs.directory import RunDirectory
from tlab.runs.graceful_stop import StopSignals
from tlab.runs.pruning import Pruning
from tlab.train import train

METRICS = ("train/loss", "val/loss", "val/acc")


@pytest.fixture
def callbacks(compose_run, tmp_path):
    def build(*overrides):
        cfg = compose_run(*overrides)
        state = RunState(build_plan({"head": {"train": "head", "epochs": None}}, 1, ("stem",)))
        pruning = Pruning("val/acc", SimpleNamespace())
        return build_callbacks(cfg, RunDirectory(tmp_path), state, METRICS, StopSignals(), pruning)

    return build


def test_the_order_is_this_one(callbacks, tmp_path):
    mine = "{stop: {_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss}, off: null"
    mine += ", every: {_target_: lightning.pytorch.callbacks.ModelCheckpoint}}"
    options = ("finetune.l2_sp=0.1", "finetune.ema=0.9", "find_lr=true", f"callbacks={mine}")
    built = callbacks(*options, "backbone.weights=DEFAULT")
    expected = [
        "AddressedRandomness",
        "BackboneFinetuning",  # writes phase, scales and rates
        "L2SP",
        "EMA",
        "LearningRateFinder",
        "RunRecorder",  # writes rows and the best epoch
        "SkippedImages",
        "ConfusionRecorder",
        "TemperatureScaling",
        "StageTable",
        "ConfigText",
        "Scalars",
        "AugmentationPreview",
        "ConfusionMatrix",
        "TopLosses",
        "PrecisionRecall",
        "EpochLines",
        "Pruning",
        "EarlyStopping",  # the user's own
        "ModelCheckpoint",
        "BestCheckpoint",  # saves what all above have written
        "LastCheckpoint",
        "GracefulStop",
    ]
    assert [type(callback).__name__ for callback in built] == expected
    kinds = [type(callback).__name__ for callback in callbacks()]
    assert kinds[kinds.index("TemperatureScaling") + 1] == "KnownImages", "of the module's own weights, no average"
    trainer = L.Trainer(
        accelerator="cpu", callbacks=built, enable_progress_bar=False, enable_model_summary=False,
        logger=False, default_root_dir=tmp_path,
    )  # fmt: skip
    assert [type(callback).__name__ for callback in trainer.callbacks] == expected  # Lightning sorts, too


def test_a_refit_has_those_that_train_and_save(compose_run, tmp_path, caplog):
    mine = "{stop: {_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss}"
    mine += ", own: {_target_: lightning.pytorch.callbacks.Timer}}"
    cfg = compose_run("finetune.ema=0.9", "find_lr=true", "dashboards.top_losses=3", f"callbacks={mine}")
    state = RunState(build_plan({"head": {"train": "head", "epochs": None}}, 1, ("stem",)))
    caplog.set_level("INFO")
    built = build_refit_callbacks(cfg, RunDirectory(tmp_path), state, [], StopSignals())
    expected = [
        "AddressedRandomness",
        "BackboneFinetuning",
        "EMA",
        "RunRecorder",
        "SkippedImages",
        "EpochLines",
        "Timer",
    ]
    assert [type(callback).__name__ for callback in built] == [*expected, "LastCheckpoint", "GracefulStop"]
    assert "refit: without EarlyStopping" in caplog.text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("checkpoint.monitor=val/top5", "checkpoint.monitor=val/top5 is not a metric of this run"),
        ("scheduler.warmup=abc", "scheduler cannot be built"),
        ("callbacks={mine: {_target_: builtins.dict}}", r"callbacks\.mine is no Lightning callback but dict"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_trains(callbacks, override, words):
    with pytest.raises(UserError, match=words):
        callbacks(override)


def test_a_progress_bar_of_ones_own_takes_the_place_of_tlabs(callbacks, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    built = callbacks("callbacks={bar: {_target_: lightning.pytorch.callbacks.TQDMProgressBar}}")
    assert [type(bar).__name__ for bar in built if isinstance(bar, ProgressBar)] == ["TQDMProgressBar"]


STOP = "{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss}"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"callbacks={{a: {STOP}, b: {STOP}}}", r"more than one stateful callback of type `EarlyStopping`"),
        ("trainer.limit_train_batches=0.01", r"^(?!callbacks).*limit_train_batches.* of callbacks or trainer"),
    ],
)
def test_what_lightning_refuses_is_told_in_a_sentence(compose_run, override, words):
    with pytest.raises(UserError, match=words):
        train(compose_run(override))


@pytest.mark.parametrize("state", [numpy.float64(1), Pruning])
def test_a_state_that_a_resumed_run_could_not_read_is_refused_when_it_is_saved(state):
    check_states({"Mine": {"plain": [1, "a", None, torch.ones(1)]}})
    with pytest.raises(UserError, match="the state_dict of Mine cannot be read"):
        check_states({"Mine": {"odd": state}})


def test_a_run_that_was_killed_before_its_first_checkpoint_trains_one_epoch_although_it_is_pruned():
    """Else it would end without anything to tell."""
    trainer = SimpleNamespace(current_epoch=0, should_stop=False)
    Pruning("val/acc", SimpleNamespace(was_pruned=lambda: True)).on_train_start(trainer, None)
    assert not trainer.should_stop
