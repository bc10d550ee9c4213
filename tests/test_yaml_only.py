"""A new backbone, augmentation, plan, loss or callback is one YAML file; every recipe runs."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tlab.config.hydra import conf_dir
from tlab.train import run, train

BACKBONE = """
_target_: tlab.models.backbones.build_backbone
name: shufflenet_v2_x0_5
weights: null
stages: {early: conv1, middle: stage2, late: stage3, top: conv5}
input_size: 32
"""
AUG = """
transforms:
  solarize: {_target_: torchvision.transforms.v2.RandomSolarize, threshold: 128, p: 0.5}
  turn: {_target_: torchvision.transforms.v2.RandomRotation, degrees: 90}
"""
PLAN = """
head_epochs: 1
phases:
  head: {train: head, epochs: 1}
  above: {train: 1, epochs: 1, lr_scale: 0.5}
  odd: {train: [early, late], epochs: 1, lr_scale: 0.25}
  all: {train: all, epochs: null, lr_scale: 0.1}
"""
LOSS = "_target_: torch.nn.BCEWithLogitsLoss"
CALLBACK = """
clock:
  _target_: lightning.pytorch.callbacks.Timer
  interval: epoch
"""


def test_one_file_each_and_no_python(photos, tmp_path):
    files = {"backbone": BACKBONE, "aug": AUG, "finetune": PLAN, "loss": LOSS, "callbacks": CALLBACK}
    for group, text in files.items():
        (tmp_path / "mine" / group).mkdir(parents=True)
        (tmp_path / "mine" / group / "ours.yaml").write_text(text)
    command = [sys.executable, "-m", "tlab.train", "--config-dir", str(tmp_path / "mine")]
    overrides = [*(f"{group}=ours" for group in files), "trainer.max_epochs=4", "trainer=cpu", "logger=none"]
    places = [f"data.root={photos}", f"hydra.run.dir={tmp_path / 'run'}"]
    result = subprocess.run([*command, *overrides, *places], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Timer" in torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["callbacks"]
    with (tmp_path / "run/history.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["train/loss"]) < 1  # begins at ln 2 for each class, not at ln 3
    trained = [
        (row["phase"], *(float(row[f"lr/{group}"]) > 0 for group in ("early", "middle", "late", "top", "head")))
        for row in rows
    ]
    assert trained == [
        ("head", False, False, False, False, True),
        ("above", False, False, False, True, True),
        ("odd", True, False, True, False, True),
        ("all", True, True, True, True, True),
    ]


RECIPES = {
    "cats_dogs": [],
    "small_lr_full": [],
    "stl10_vgg16": ["data=folder", "backbone=vgg11", "backbone.upto=block2"],
    "vgg16_last_layer": ["backbone=vgg11", "backbone.upto=block2"],
}


def test_every_recipe_is_tested():
    """That of a competition with its submission, in `test_competitions`."""
    assert {*RECIPES, "demo", "kaggle_cifar10"} == {
        file.stem for file in (conf_dir() / "experiment").glob("*.yaml")
    }


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_runs(compose_run, photos, recipe):
    """In small: our images, random weights, a VGG without its hundred million fully connected weights."""
    cfg = compose_run(f"experiment={recipe}", *RECIPES[recipe], f"data.root={photos}", "data.image_size=32")
    assert 0 <= train(cfg)["val/acc"] <= 1


def test_the_demo_runs_with_its_baseline(run_entry_point, tmp_path, capsys):
    """In small; the file gives its plan epochs of the head, for which the baseline has no use."""
    small = ("data.image_size=32", "trainer=cpu", "trainer.max_epochs=2", "finetune.head_epochs=1", "logger=none")
    few = "+data.source.images_per_class={train: 6, val: 3, test: 3}"
    run_entry_point(run, "train", "experiment=demo", *small, few, f"hydra.run.dir={tmp_path}")
    assert "scratch" in capsys.readouterr().out
    assert (tmp_path / "baselines/scratch/metrics.json").exists()


@pytest.mark.parametrize("recipe", [*RECIPES, "demo", "kaggle_cifar10"])
def test_every_recipe_opens_with_its_command_and_its_source(recipe):
    text = (Path(conf_dir()) / "experiment" / f"{recipe}.yaml").read_text()
    assert f"python -m tlab.train experiment={recipe}" in text
    assert "# Follows: " in text
    assert "# Gave: " in text
