"""Weights of a sweep that cannot be had: said once, before anything trains, with a command that works."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
from torchvision.models import MobileNet_V3_Small_Weights, ResNet18_Weights, ResNet34_Weights

from tlab.config.hydra import compose
from tlab.core.errors import DownloadFailed
from tlab.models.backbones import build_backbone
from tlab.models.backbones import fetch_weights as fetch_from_hub
from tlab.runs.directory import RunDirectory
from tlab.sweeps.jobs import Job
from tlab.sweeps.weights import fetch_weights
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


def test_weights_are_fetched_once_where_a_choice_of_data_brings_a_backbone(tmp_path, monkeypatch):
    asked, place = [], RunDirectory(tmp_path / "run")
    monkeypatch.setattr("tlab.models.backbones.fetch_weights", lambda *wanted: asked.append(wanted))
    choices = (("data=demo",), ("data=folder",), ("data=folder", "finetune=full"), ("data=folder", "head=mlp"))
    jobs = [Job((*each, "data.root=x"), "a", "0", place) for each in choices]
    composer = SimpleNamespace(look_at=lambda job: compose([*job.overrides, f"run_dir={tmp_path}"]))
    fetch_weights(jobs, composer)
    assert asked == [("resnet18", "torchvision", "DEFAULT")]


def test_damaged_weights_of_the_hub_are_a_mistake_that_is_told(tmp_path, monkeypatch):
    """And what is there is not read only to see that it is."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cfg = timm.get_pretrained_cfg("resnet10t")
    folder = tmp_path / f"models--{cfg.hf_hub_id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("abc")
    (folder / "snapshots/abc").mkdir(parents=True)
    (folder / "snapshots/abc/model.safetensors").write_bytes(b"damaged" * 9)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    fetch_from_hub("resnet10t", "timm", "DEFAULT")
    with pytest.raises(DownloadFailed, match="header"):
        build_backbone("resnet10t", "timm", "DEFAULT")


def test_no_weights_are_fetched_for_runs_that_begin_without(command, monkeypatch):
    monkeypatch.setattr("tlab.models.backbones.fetch_weights", lambda *_: pytest.fail("they ask the network"))
    command("backbone=resnet18", "backbone.weights=null", "backbone.upto=stem")
