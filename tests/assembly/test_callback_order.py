"""The order of the callbacks: who writes the run's state stands before who reads it."""

from types import SimpleNamespace

import lightning.pytorch as L
import pytest

from tlab.assembly.callbacks import build_callbacks
from tlab.core.errors import UserError
from tlab.finetuning import RunState, build_plan
from tlab.runs.directory import RunDirectory
from tlab.runs.graceful_stop import StopSignals
from tlab.runs.pruning import Pruning

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
    built = callbacks("finetune.l2_sp=0.1", "finetune.ema=0.9", "find_lr=true", "backbone.weights=DEFAULT")
    expected = [
        "AddressedRandomness",
        "BackboneFinetuning",  # writes phase, scales and rates
        "L2SP",
        "EMA",
        "LearningRateFinder",
        "RunRecorder",  # writes rows and the best epoch
        "ConfusionRecorder",
        "StageTable",
        "ConfigText",
        "Scalars",
        "AugmentationPreview",
        "ConfusionMatrix",
        "TopLosses",
        "PrecisionRecall",
        "EpochLines",
        "Pruning",
        "BestCheckpoint",  # saves what all above have written
        "LastCheckpoint",
        "GracefulStop",
    ]
    assert [type(callback).__name__ for callback in built] == expected
    trainer = L.Trainer(
        accelerator="cpu", callbacks=built, enable_progress_bar=False, enable_model_summary=False,
        logger=False, default_root_dir=tmp_path,
    )  # fmt: skip
    assert [type(callback).__name__ for callback in trainer.callbacks] == expected  # Lightning sorts, too


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("checkpoint.monitor=val/top5", "checkpoint.monitor=val/top5 is not a metric of this run"),
        ("scheduler.warmup=abc", "scheduler cannot be built"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_trains(callbacks, override, words):
    with pytest.raises(UserError, match=words):
        callbacks(override)
