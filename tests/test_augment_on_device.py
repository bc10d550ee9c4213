"""Whole runs whose images are augmented where the network computes, with each batch one ahead, as on a GPU."""

import pytest

from test_resume import assert_alike, crashing, history
from tlab.data import loader as loader_module
from tlab.data.drawn import DrawnBatch
from tlab.data.loader import Loader
from tlab.data.transfer import one_ahead
from tlab.train import train

SMALL = ("backbone=mobilenet_v3_small", "trainer.max_epochs=3", "features.cache=off", "optimizer.lr=0.01")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Let every loader work one ahead, as for a GPU; notes of each batch whether it came drawn."""
    kinds: list[bool] = []
    finished = loader_module.finished

    def noted(batch):
        kinds.append(isinstance(batch, DrawnBatch))
        return finished(batch)

    def sent(self, batches):
        return one_ahead(batches, lambda batch: lambda: noted(batch))

    monkeypatch.setattr(Loader, "_sent", sent)
    return kinds


def test_run_learns_as_with_images_augmented_on_the_cpu(compose_run, tmp_path, drawn):
    losses = {}
    for where in ("cpu", "device"):
        drawn.clear()
        train(compose_run(*SMALL, f"data.augment_on={where}", run_dir=tmp_path / where))
        assert any(drawn) == (where == "device")
        assert not all(drawn)  # validation never is
        losses[where] = [float(row["train/loss"]) for row in history(tmp_path / where)]
    assert losses["device"] == pytest.approx(losses["cpu"], rel=0.02)
    assert losses["device"] != losses["cpu"]


@pytest.mark.parametrize("crash", [2, 4])
def test_run_that_crashed_inside_an_epoch_goes_on_there(compose_run, tmp_path, monkeypatch, drawn, crash):
    options = (*SMALL, "data.augment_on=device", "aug=strong", "checkpoint.every_n_steps=1")
    options += ("aug.mix.mixup_alpha=0.2", "aug.mix.cutmix_alpha=1.0")
    train(compose_run(*options, run_dir=tmp_path / "whole"))
    with crashing(monkeypatch, crash):
        train(compose_run(*options, run_dir=tmp_path / "run"))
    train(compose_run(*options, run_dir=tmp_path / "run"))
    assert any(drawn)
    assert_alike(tmp_path / "run", tmp_path / "whole")


def test_stored_features_and_rate_finder_read_the_cpus_images(compose_run, tmp_path, drawn):
    options = [option for option in SMALL if "features" not in option]
    metrics = train(compose_run(*options, "data.augment_on=device", "find_lr=true", run_dir=tmp_path / "run"))
    assert metrics["epochs"] == 3
    assert any(drawn)
