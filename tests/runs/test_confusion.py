"""What a run writes about its mistakes, and about itself, for the comparison."""

import json

import pytest

from tlab.runs.directory import RunDirectory
from tlab.train import train

SMALL = ("trainer.max_epochs=3",)


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_confusion_is_that_of_the_metrics(compose_run, tmp_path, split):
    metrics = train(compose_run(*SMALL))
    run = RunDirectory(tmp_path / "run")
    rows = run.confusion(split)
    classes = set(run.record["class_names"])
    assert all({row["label"], row["prediction"]} <= classes for row in rows)
    total = sum(int(row["count"]) for row in rows)
    right = sum(int(row["count"]) for row in rows if row["label"] == row["prediction"])
    assert total == 18
    assert right / total == pytest.approx(metrics[f"{split}/acc"], abs=1e-6)


def test_a_run_that_goes_on_knows_its_best_epoch(compose_run, tmp_path):
    """The best epoch lies before the interruption: at a rate of 0 no later one is better."""
    frozen = (*SMALL, "optimizer.lr=0.0", "finetune=head")
    stopped = compose_run(*frozen)
    metrics = train(stopped)
    run = RunDirectory(tmp_path / "run")
    rows = run.confusion("val")
    (tmp_path / "run/confusion_val.csv").unlink()
    run.metrics_file.unlink()
    run.update(status="failed")
    assert train(stopped)["val/acc"] == metrics["val/acc"]
    assert metrics["best_epoch"] == 0
    assert run.confusion("val") == rows != []


def test_the_record_counts_the_parameters_of_each_group(compose_run, tmp_path):
    train(compose_run(*SMALL, "finetune=head"))
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["parameters"]["head"] == 64 * 3 + 3
    assert list(record["parameters"])[:2] == ["stem", "layer1"]


def test_overrides_are_read_back(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.overrides() == []
    overrides = ["aug=none", "optimizer.lr=0.1", "data.root='a: b, c'", "finetune.stage_lr_scales={stem: 0.1}"]
    run.write_config("", [*overrides, "a=${b}"])
    assert run.overrides() == [*overrides, "a=${b}"]
