"""Runs with each loss: trained, measured again from the checkpoint, and predicted."""

import pytest

from tlab.config.hydra import compose
from tlab.evaluate import evaluate
from tlab.predict import predict
from tlab.train import train

SMALL = ("backbone=mobilenet_v3_small", "backbone.upto=stem", "finetune=head", "head.dropout=0.0", "aug=none")
MIXED = ("aug.mix.mixup_alpha=0.3", "aug.mix.p=0.5")
TORCHS = ("loss._target_=torch.nn.CrossEntropyLoss", "loss.label_smoothing=0.1")
VALUES = ("loss.label_smoothing=0.1", "data.class_weights=true")


@pytest.mark.parametrize(
    "options",
    [
        ("loss=focal", *VALUES, *MIXED),
        ("loss=logit_adjusted", *VALUES),
        ("loss=focal", "finetune=full", "finetune.ema=0.9", "finetune.l2_sp=0.01", "backbone.weights=bundled"),
        (*TORCHS, *MIXED),
        (*TORCHS, "+loss.reduction=none", "data.class_weights=true"),
    ],
    ids=" ".join,
)
def test_a_run_is_measured_again_with_its_loss(compose_run, photos, tmp_path, options):
    """Its training images are few in one class; tlab's own need no trust."""
    metrics = train(compose_run(*SMALL, "data.exclude=[train/red/0*]", *options))
    where = [f"run={tmp_path / 'run'}", "accelerator=cpu", "num_workers=0"]
    trust = f"trust={str(TORCHS[0] in options).lower()}"
    measured = evaluate(compose([*where, "split=test", trust], "evaluate"))
    del measured["test/unknown"]  # which a run does not measure
    assert measured == {key: pytest.approx(metrics[key], rel=1e-4) for key in measured}
    assert len(predict(compose([*where, f"input={photos / 'test/red'}"], "predict"))) == 6
