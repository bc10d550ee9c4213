"""The speed benchmark: what its ratios mean, what its table says, and that its commands are right."""

import sys
from pathlib import Path

import pytest
import torch
from torchvision import models

from shared import freeze, network
from speed import weights_of
from speed_commands import Measurement, read, run, tlab_command
from speed_inputs import repeated
from speed_report import ratios, table
from speed_scenarios import SIZES, Scenario
from tlab.config.hydra import compose

HEAD = Scenario("head", "Head", ("tlab", "lightning", "limit", "sweep"), bars={"lightning": 10.0, "sweep": 1.6})
SPEED = Scenario("full", "Full", ("tlab", "lightning", "limit"), measure="speed", bars={"limit": 0.95})
LIMITS = {"images": 100, "forward_bf16": 50.0, "decode": 200.0, "train_fp32": 30.0, "train_bf16": 40.0}


def test_a_ratio_of_whole_commands_says_how_many_times_faster_tlab_is_in_the_same_round() -> None:
    results = [
        Measurement("head", "tlab", 0, seconds=2.0),
        Measurement("head", "tlab", 1, seconds=4.0),
        Measurement("head", "lightning", 1, seconds=20.0),
        Measurement("head", "lightning", 0, seconds=30.0),
        Measurement("head", "lightning", 2, seconds=99.0),  # without a tlab to compare with
        Measurement("head", "tlab", 3, error="stopped"),
        Measurement("head", "lightning", 3, seconds=99.0),
    ]
    assert ratios(results, HEAD, "lightning") == [15.0, 5.0]


def test_other_ratios() -> None:
    results = [
        Measurement("head", "tlab", 0, seconds=10.0, fit_seconds=5.0),
        Measurement("head", "sweep", 0, seconds=15.0),
        Measurement("head", "limit", 0, limits=LIMITS),
        Measurement("full", "tlab", 0, images_per_second=36.0),
        Measurement("full", "lightning", 0, images_per_second=18.0),
        Measurement("full", "limit", 0, limits=LIMITS),
    ]
    assert ratios(results, HEAD, "sweep") == [1.5]
    assert ratios(results, HEAD, "limit") == [5.0 / (100 / 50 + 100 / 200)]  # one forward pass and decoding
    assert ratios(results, SPEED, "lightning") == [2.0]
    assert ratios(results, SPEED, "limit") == [0.9]  # of the better precision


def test_the_table_says_what_was_reached_and_what_failed() -> None:
    results = [
        Measurement("head", "tlab", 0, seconds=2.0, accuracy=[0.5, 0.8]),
        Measurement("head", "tlab", 1, seconds=2.0, accuracy=[0.5, 0.9]),
        Measurement("head", "lightning", 0, seconds=22.0, accuracy=[0.75]),
        Measurement("head", "lightning", 1, seconds=24.0, accuracy=[0.75]),
        Measurement("head", "sweep", 0, seconds=9.0),
        Measurement("head", "limit", 0, error="no such file"),
    ]
    text = table(results, [HEAD])
    assert "11.50 [11.00, 12.00] × faster | ≥ 10: yes" in text
    assert "4.50 × one run | ≤ 1.6: no" in text
    assert "85.0 ± 7.1" in text
    assert "limit | failed: no such file" in text


@pytest.mark.parametrize(
    "scenario", [s for size in SIZES.values() for s in size], ids=lambda scenario: scenario.name
)
def test_every_tlab_command_composes(scenario: Scenario, tmp_path: Path) -> None:
    command = tlab_command(scenario, tmp_path, tmp_path / "weights.pth", 1, tmp_path)
    assert command[1:3] == ["-m", "tlab.train"]
    cfg = compose([override for override in command[3:] if not override.startswith("hydra.")])
    assert cfg.data.image_size == scenario.image_size
    assert cfg.trainer.max_epochs == scenario.epochs


def test_a_failing_command_gives_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    _, error = run([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path, log, timeout=60)
    assert error.startswith("no such thing (exit code 1")


def test_a_command_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    seconds, error = run([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, tmp_path / "log", 0.5)
    assert (seconds, error) == (0.5, "stopped after 0.5 s")


def test_the_first_epoch_does_not_count_for_images_per_second(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.json").write_text('{"fit_seconds": 7.5}')
    (tmp_path / "run" / "history.csv").write_text("epoch,val/acc,images_per_second\n0,0.5,10\n1,0.6,30\n2,0.7,40\n")
    result = Measurement("head", "tlab", 0)
    read(result, tmp_path)
    assert (result.fit_seconds, result.images_per_second, result.accuracy) == (7.5, 35.0, [0.5, 0.6, 0.7])


def test_repeated_images_are_links_without_gif_files(tmp_path: Path) -> None:
    for name in ("train/a/1.jpg", "train/b/2.jpg", "train/b/3.gif", "val/a/4.jpg"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text(name)
    folder = repeated(tmp_path / "data", tmp_path / "repeated", copies=3)
    assert sorted(path.read_text() for path in folder.rglob("*.*")) == [
        *["train/a/1.jpg"] * 3,
        *["train/b/2.jpg"] * 3,
        "val/a/4.jpg",
    ]


def test_weights_belong_to_an_architecture(tmp_path: Path) -> None:
    choices = [str(tmp_path / "a.pth"), f"resnet50={tmp_path / 'b.pth'}"]
    assert weights_of(choices, "resnet18", tmp_path) == tmp_path / "a.pth"
    assert weights_of(choices, "resnet50", tmp_path) == tmp_path / "b.pth"
    assert weights_of([], "resnet18", tmp_path).name == "resnet18_random.pth"


def test_peers_train_what_the_plan_says_from_the_weights_of_the_file(tmp_path: Path) -> None:
    source = models.resnet18(num_classes=7)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    model = network("resnet18", tmp_path / "weights.pth", num_classes=3)
    assert model.fc.out_features == 3
    assert torch.equal(model.layer4[0].conv1.weight, source.layer4[0].conv1.weight)
    trained = {}
    for plan in ("head", "layer4", "full"):
        freeze(model, plan)
        trained[plan] = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained["head"] == {"fc"}
    assert trained["layer4"] == {"layer4", "fc"}
    assert {"conv1", "layer1", "layer4", "fc"} <= trained["full"]
