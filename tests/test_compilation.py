"""Whole runs of which some phases are compiled, by a backend that runs each graph as it is."""

import json
import logging
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from tlab.compilation import images_per_epoch
from tlab.errors import UserError
from tlab.models import compile_choice, compiling
from tlab.runs.directory import RunDirectory
from tlab.train import train

CHOOSE = "tlab.models.compile_choice.worth_compiling"
SMALL = ("backbone=mobilenet_v3_small", "head.dropout=0.5")


@pytest.fixture
def graphs(monkeypatch):
    """What is compiled, with nothing gained by it."""
    torch._dynamo.reset()
    found = []

    def backend(graph, inputs):
        found.append(graph)
        return graph.forward

    compiler = compiling.compiler
    monkeypatch.setattr(compiling, "compiler", lambda name: compiler(backend))
    monkeypatch.setattr(compiling, "check_compiler", lambda device: None)
    return found


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def assert_alike(some: Path, other: Path) -> None:
    a, b = weights(some), weights(other)
    assert list(a) == list(b)
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def compiled(run: Path) -> list[str]:
    return json.loads((run / "run.json").read_text())["compiled"]


@pytest.mark.parametrize(
    ("plan", "phases"),
    [
        (["finetune=lp_ft", "trainer.max_epochs=3", "finetune.ema=0.9"], ["all"]),
        (
            ["finetune=gradual", "trainer.max_epochs=5"],
            ["unfreeze/layer4", "unfreeze/layer3", "unfreeze/layer1", "unfreeze/stem"],
        ),
        (["finetune=last", "features.cache=off", "trainer.max_epochs=2"], ["last"]),
    ],
    ids=lambda value: value[0],
)
def test_a_compiled_run_ends_as_the_same_run_that_is_not(compose_run, tmp_path, graphs, plan, phases):
    """36 images: two whole batches and one of four."""
    options = (*plan, "data.batch_size=16", "head.dropout=0.5")
    plain = train(compose_run(*options, "trainer.compile=false", run_dir=tmp_path / "plain"))
    assert graphs == []
    metrics = train(compose_run(*options, "trainer.compile=true", run_dir=tmp_path / "compiled"))
    assert (compiled(tmp_path / "plain"), compiled(tmp_path / "compiled")) == ([], phases)
    assert len(graphs) == len(phases)
    assert_alike(tmp_path / "plain", tmp_path / "compiled")
    assert {**metrics, "fit_seconds": 0} == {**plain, "fit_seconds": 0}


def test_only_the_phases_for_which_it_pays_are_compiled(compose_run, tmp_path, graphs, monkeypatch, caplog):
    asked = []

    def choose(net, images, setting):
        asked.append((images, setting))
        return {max(images, key=len)}, "it is faster"

    monkeypatch.setattr(CHOOSE, choose)
    with caplog.at_level(logging.INFO):
        train(compose_run("finetune=gradual", "trainer.max_epochs=5", "trainer.compile=auto"))
    assert "torch.compile in phase unfreeze/stem: it is faster" in caplog.text
    assert compiled(tmp_path / "run") == ["unfreeze/stem"]
    assert len(graphs) == 1
    [(images, setting)] = asked
    assert {len(groups): count for groups, count in images.items()} == {2: 36, 3: 36, 5: 36, 6: 36}
    assert (setting.batch_size, setting.image_size, setting.accelerator) == (12, 32, "cpu")


def test_a_plan_that_trains_only_the_head_asks_nothing(compose_run, tmp_path, monkeypatch):
    monkeypatch.setattr(CHOOSE, Mock(side_effect=AssertionError))
    train(compose_run("finetune=head", "trainer.compile=auto"))
    assert compiled(tmp_path / "run") == []


def test_a_run_goes_on_compiled_as_it_has_begun(compose_run, tmp_path, graphs, monkeypatch):
    options = (*SMALL, "trainer.max_epochs=3", "trainer.compile=auto")
    monkeypatch.setattr(CHOOSE, lambda net, images, setting: (frozenset(images), "it is faster"))
    train(compose_run(*options, run_dir=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_history", Mock(side_effect=[None, RuntimeError("a power cut")]))
        with pytest.raises(RuntimeError, match="power cut"):
            train(compose_run(*options, run_dir=tmp_path / "run"))
    monkeypatch.setattr(CHOOSE, Mock(side_effect=AssertionError))
    before = len(graphs)
    train(compose_run(*options, run_dir=tmp_path / "run"))
    assert compiled(tmp_path / "run") == ["all"]
    assert len(graphs) > before
    assert_alike(tmp_path / "whole", tmp_path / "run")


def test_looking_for_a_rate_compiles_nothing(compose_run, tmp_path, graphs):
    options = (*SMALL, "finetune=full", "trainer.compile=true")
    train(compose_run(*options, run_dir=tmp_path / "plain"))
    before = len(graphs)
    train(compose_run(*options, "find_lr=true", run_dir=tmp_path / "run"))
    assert len(graphs) == 2 * before
    assert_alike(tmp_path / "plain", tmp_path / "run")


def test_a_run_without_a_compiler_says_so_before_it_trains(compose_run, tmp_path, monkeypatch):
    def compile_(*args, **options):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(compiling.torch, "compile", compile_)
    with pytest.raises(UserError, match=r"trainer\.compile=true: torch\.compile does not work here"):
        train(compose_run("trainer.compile=true"))
    assert not (tmp_path / "run/history.csv").exists()


@pytest.mark.parametrize("value", ["sometimes", "1", "null"])
def test_another_value_is_a_mistake(compose_run, value):
    with pytest.raises(UserError, match=r"trainer\.compile=\w+ is not one of auto, true, false$"):
        train(compose_run(f"trainer.compile={value}"))


@pytest.mark.parametrize(("limit", "images"), [("null", 50), ("2", 24), ("100", 50), ("0.5", 25), ("1.0", 50)])
def test_how_many_images_an_epoch_has(compose_run, limit, images):
    assert images_per_epoch(compose_run(f"trainer.limit_train_batches={limit}", "trainer=ddp"), 100) == images


def test_the_memory_of_a_run_is_used_by_the_next(compose_run, tmp_path, monkeypatch):
    measure = Mock(return_value=100.0)
    monkeypatch.setattr(compile_choice, "eager_speed", measure)
    for name in ("one", "two"):
        train(compose_run("backbone=squeezenet1_1", "finetune=full", run_dir=tmp_path / name))
    measure.assert_called_once()
