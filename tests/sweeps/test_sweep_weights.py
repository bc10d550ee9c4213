"""Weights of a sweep that cannot be had: said once, before anything trains, with a command that works."""

import json
from pathlib import Path

import pytest
from torchvision.models import MobileNet_V3_Small_Weights, ResNet18_Weights, ResNet34_Weights

from tlab.train import run


@pytest.fixture
def command(run_entry_point, photos, tmp_path, monkeypatch):
    """`tlab.train -m` in a folder of its own, without a network and without the package of weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tlab.models.packaged_weights.packaged_file", lambda: None)
    for weights in (ResNet18_Weights, ResNet34_Weights, MobileNet_V3_Small_Weights):
        monkeypatch.setattr(weights.DEFAULT.value, "url", f"http://127.0.0.1:9/{weights.__name__}.pth")
    quick = (
        *("-m", f"data.root={photos}", "data.image_size=32", "data.batch_size=12", "data.num_workers=0"),
        *("trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=1", "finetune=head", "head.solver=sgd"),
        *("logger=none", "sweep=s"),
    )
    return lambda *arguments: run_entry_point(run, "train", *quick, *arguments)


def test_it_is_said_once_with_a_command_that_works(command, run_entry_point, pasted, capfd):
    with pytest.raises(SystemExit, match="2"):
        command("backbone=resnet18,resnet34", "backbone.upto=layer1", "seed=0,1")
    (said,) = capfd.readouterr().err.strip().splitlines()
    for name in ("resnet18", "resnet34"):
        assert said.count(f"{name}: backbone.weights=DEFAULT needs the file http://127.0.0.1:9/") == 1
    assert not [*Path("outputs").rglob("*.json")]
    words = pasted(said.rpartition(": tlab ")[2])
    run_entry_point(run, "train", *(word for word in words if "_logging=" not in word))
    records = map(json.loads, map(Path.read_text, Path("outputs/multirun/s").glob("*/seed=*/run.json")))
    assert [(record["status"], record["config"]["backbone"]["weights"]) for record in records] == [
        ("finished", "bundled")
    ] * 2


def test_no_weights_are_fetched_for_runs_that_begin_without(command, monkeypatch):
    monkeypatch.setattr("tlab.models.backbones.fetch_weights", lambda *_: pytest.fail("they ask the network"))
    command("backbone=resnet18", "backbone.weights=null", "backbone.upto=stem")
