"""A run that is stopped, however and wherever, and started again ends as if nothing had happened."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import lightning.pytorch as L
import pytest
import torch
from omegaconf import OmegaConf

from forked_command import ForkedCommand
from tlab.config.hydra import compose
from tlab.core.errors import UserError
from tlab.core.files import atomic_path
from tlab.evaluate import evaluate
from tlab.runs.checkpoints import LastCheckpoint, resumable
from tlab.runs.directory import RunDirectory
from tlab.runs.load import load_trained
from tlab.train import train

SMALL = ("backbone.upto=layer1", "head.dropout=0.5")


class CrashError(Exception):
    """Stands for a power cut."""


def history(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def timeless(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]


def assert_alike(some: Path, other: Path) -> None:
    assert timeless(history(some)) == timeless(history(other))
    for name in ("best", "last"):
        a, b = weights(some, name), weights(other, name)
        assert [key for key in a if not torch.equal(a[key], b[key])] == []


@contextmanager
def crashing(monkeypatch: pytest.MonkeyPatch, saves: int) -> Iterator[list[int]]:
    """Let a run crash in the block when it has saved so often; gives the steps at which it did."""
    save, steps = LastCheckpoint.save, []

    def save_and_crash(self, trainer):
        save(self, trainer)
        steps.append(trainer.global_step)
        if len(steps) == saves:
            raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "save", save_and_crash)
        with pytest.raises(CrashError):
            yield steps


@pytest.fixture(scope="session")
def whole_runs() -> dict[str, Path]:
    return {}


class Steps(L.Callback):
    """Counts what it has seen of the training."""

    def __init__(self) -> None:
        self.seen = 0

    def on_train_batch_end(self, *_) -> None:
        self.seen += 1

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.seen = state_dict["seen"]


class Warming(torch.nn.Module):
    """A loss with something to train, and a state that each step changes."""

    def __init__(self, class_counts: torch.Tensor) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.register_buffer("steps", class_counts.sum() * 0.0)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        return self.scale * torch.nn.functional.cross_entropy(logits, target) + self.scale**2 / (1 + self.steps)


VARIANTS = {
    "cosine": ("scheduler=cosine", "loss=focal"),
    "plateau": (
        *("scheduler=plateau", "loss._target_=test_resume.Warming", "~loss.label_smoothing"),
        "callbacks.steps._target_=test_resume.Steps",
    ),
}


@pytest.mark.parametrize("scheduler", VARIANTS)
@pytest.mark.parametrize("crash", [2, 3, 4, 8])
def test_a_run_that_crashed_inside_an_epoch_goes_on_there(
    compose_run, tmp_path_factory, tmp_path, monkeypatch, whole_runs, scheduler, crash
):
    """Three steps an epoch, one epoch of the head and two of all; a checkpoint and, once, a crash after a step."""
    options = (
        *SMALL,
        "trainer.max_epochs=3",
        *VARIANTS[scheduler],
        "checkpoint.every_n_steps=1",
        "aug.mix.mixup_alpha=0.2",
    )
    if scheduler not in whole_runs:
        whole_runs[scheduler] = tmp_path_factory.mktemp("whole")
        train(compose_run(*options, run_dir=whole_runs[scheduler]))
    cfg = compose_run(*options, run_dir=tmp_path / "run")
    with crashing(monkeypatch, crash) as saves:
        train(cfg)
    assert saves == list(range(1, crash + 1))
    train(compose_run(*options, run_dir=tmp_path / "run"))
    assert_alike(tmp_path / "run", whole_runs[scheduler])
    if scheduler == "plateau":
        last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
        assert last["callbacks"]["Steps"] == {"seen": 9}
        assert last["state_dict"]["loss.steps"] == 9
        assert last["state_dict"]["loss.scale"] != 1


def test_a_run_goes_on_in_the_precision_it_has_begun_with(compose_run, tmp_path, monkeypatch):
    """What is measured may differ from one hour to the next, and from one machine to the next."""
    options = (*SMALL, "trainer.max_epochs=3", "trainer.precision=auto")
    choose = "tlab.models.autotune.precision.fastest_precision"
    monkeypatch.setattr(choose, lambda *_, **__: ("bf16-mixed", "measured"))
    train(compose_run(*options, run_dir=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_history", Mock(side_effect=[None, CrashError]))
        with pytest.raises(CrashError):
            train(compose_run(*options, run_dir=tmp_path / "run"))
    assert (tmp_path / "run/checkpoints/last.ckpt").exists()
    monkeypatch.setattr(choose, lambda *_, **__: ("32-true", "measured"))
    train(compose_run(*options, run_dir=tmp_path / "run"))
    assert_alike(tmp_path / "whole", tmp_path / "run")
    assert json.loads((tmp_path / "run/run.json").read_text())["precision"] == "bf16-mixed"


def test_a_run_from_before_tokens_were_told_apart_stays_as_it_was(compose_run, tmp_path, monkeypatch):
    """It pooled the class token of a ViT with the patches, and none of its files has a word on tokens."""
    name = ("backbone=timm", "backbone.name=vit_tiny_patch16_224", "backbone.upto=blocks_0")
    options = (*name, "backbone.kwargs={depth: 3, embed_dim: 16, num_heads: 2}", "trainer.max_epochs=3")
    with monkeypatch.context() as patch:
        patch.setattr("tlab.runs.load.token_options", lambda *_: {"tokens_apart": False})
        train(compose_run(*options, run_dir=tmp_path / "whole"))
        patch.setattr(RunDirectory, "write_history", Mock(side_effect=[None, CrashError]))
        with pytest.raises(CrashError):
            train(compose_run(*options, run_dir=tmp_path / "run"))
    record, last = tmp_path / "run/run.json", tmp_path / "run/checkpoints/last.ckpt"
    known, checkpoint = json.loads(record.read_text()), torch.load(last, weights_only=True)
    for words in (known, checkpoint["tlab"]):
        assert words.pop("tokens") == "mixed"
    record.write_text(json.dumps(known))
    torch.save(checkpoint, last)
    net = load_trained(last).module.net
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        tokens = net.backbone(net.normalize(x))
        assert tokens.shape == (2, 5, 16)
        assert torch.equal(net(x), net.head.linear(tokens.mean(1)))
    train(compose_run(*options, run_dir=tmp_path / "run"))
    assert_alike(tmp_path / "whole", tmp_path / "run")
    assert json.loads(record.read_text())["tokens"] == "mixed"


def test_a_run_whose_classes_are_sorted_as_text_keeps_their_order(compose_run, photos, tmp_path, monkeypatch):
    """As earlier versions of tlab sorted numbers."""
    for split in ("train", "val"):
        for name, old in zip(("1", "2", "10"), ("blue", "green", "red"), strict=True):
            shutil.copytree(photos / split / old, tmp_path / "data" / split / name)
    options = (f"data.root={tmp_path / 'data'}", *SMALL, "finetune=head", "trainer.max_epochs=2")
    with monkeypatch.context() as patch:
        patch.setattr("tlab.data.sources.folder.in_class_order", sorted)
        before = train(compose_run(*options, run_dir=tmp_path / "whole"))
        with crashing(patch, saves=1):
            train(compose_run(*options, run_dir=tmp_path / "run"))
    assert train(compose_run(*options, run_dir=tmp_path / "run"))["val/loss"] == before["val/loss"]
    assert_alike(tmp_path / "run", tmp_path / "whole")
    assert RunDirectory(tmp_path / "run").record["class_names"] == ["1", "10", "2"]
    assert train(compose_run(*options, run_dir=tmp_path / "whole")) == before  # nothing is trained again
    again = evaluate(compose([f"run={tmp_path / 'run'}", "num_workers=0", "accelerator=cpu"], "evaluate"))
    assert again["val/loss"] == pytest.approx(before["val/loss"], abs=1e-6)


def test_a_killed_run_goes_on_and_ends_alike(compose_run, photos, tmp_path):
    """SIGKILL in some epoch; the directory is moved; the same command again. With dropout and momentum."""
    mine = "{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss, patience: 99}"
    longer = ("trainer.max_epochs=6", "finetune.head_epochs=2", "head.dropout=0.5", f"callbacks={{mine: {mine}}}")
    whole = train(compose_run(*longer, run_dir=tmp_path / "whole"))
    cfg = compose_run(*longer, run_dir=tmp_path / "killed")
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, torch\nfrom omegaconf import OmegaConf\nfrom tlab.train import train\n"
        "if __name__ == '__main__':\n"
        "    torch.set_num_threads(1)\n    train(OmegaConf.load(sys.argv[1]))\n"
    )
    OmegaConf.save(cfg, tmp_path / "cfg.yaml", resolve=True)
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path / "cfg.yaml")], env=os.environ)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed/history.csv").exists() or len(history(tmp_path / "killed")) < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((tmp_path / "killed/run.json").read_text())["status"] == "running"
    (tmp_path / "killed").rename(tmp_path / "moved")
    metrics = train(compose_run(*longer, run_dir=tmp_path / "moved"))
    assert [row["epoch"] for row in history(tmp_path / "moved")] == list("012345")
    lasting = {key for key in metrics if not key.endswith("seconds")}
    assert {key: metrics[key] for key in lasting} == {key: whole[key] for key in lasting}
    assert_alike(tmp_path / "whole", tmp_path / "moved")
    states = [
        torch.load(tmp_path / run / "checkpoints/last.ckpt", weights_only=True)["callbacks"]
        for run in ("whole", "moved")
    ]
    (own,) = [key for key in states[0] if key.startswith("EarlyStopping")]
    assert states[0][own] == states[1][own]
    assert states[0][own]["wait_count"] > 0 or states[0][own]["best_score"] < 99


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR2, 140)])
def test_a_stopped_run_saves_first_and_says_how_to_go_on(photos, tmp_path, pasted, number, code):
    """Inside an epoch, in the second phase, without any other checkpoint inside an epoch."""
    common = ["data.image_size=32", "data.batch_size=2", "backbone.weights=null", "trainer=cpu", "logger=none"]
    more = ["finetune.head_epochs=1", "trainer.max_epochs=200", *SMALL, f"hydra.run.dir={tmp_path / 'run'}"]
    arguments = [f"data.root={photos}", *common, *more]
    process = ForkedCommand("tlab.train", *arguments)
    while not (tmp_path / "run/history.csv").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == code
    again = printed[printed.index("stopped; ") + len("stopped; ") : printed.index(" resumes it")]
    assert pasted(again) == ["python", "-m", "tlab.train", *arguments]
    assert "Traceback" not in printed
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["status"], record["error"]) == ("failed", "interrupted")
    checkpoint = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] >= len(history(tmp_path / "run")) * 18


class SignalAtTheEnd(L.Callback):
    """A signal that comes when the last epoch has looked for one already."""

    def on_train_end(self, trainer, pl_module):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_between_the_last_epoch_and_its_evaluation_is_obeyed(compose_run, tmp_path, monkeypatch):
    """It had no effect there, and a search's worker went on with other trials."""
    options = (*SMALL, "trainer.max_epochs=2", "+callbacks.own._target_=test_resume.SignalAtTheEnd")
    with pytest.raises(SystemExit) as end:
        train(compose_run(*options))
    assert end.value.code == 128 + signal.SIGTERM
    assert json.loads((tmp_path / "run/run.json").read_text())["error"] == "interrupted"
    monkeypatch.delattr(SignalAtTheEnd, "on_train_end")
    assert train(compose_run(*options))["epochs"] == 2
    assert [row["epoch"] for row in history(tmp_path / "run")] == ["0", "1"]


@pytest.mark.parametrize("damage", ["cut", "bit"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(compose_run, tmp_path, caplog, monkeypatch, damage):
    options = (*SMALL, "trainer.max_epochs=3")
    train(compose_run(*options, run_dir=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "finish", Mock(side_effect=CrashError))
        with pytest.raises(CrashError):
            train(compose_run(*options, run_dir=tmp_path / "run"))
    last = tmp_path / "run/checkpoints/last.ckpt"
    content = bytearray(last.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 1
    last.write_bytes(content)
    previous = (tmp_path / "run/checkpoints/previous.ckpt").read_bytes()
    assert resumable(RunDirectory(tmp_path / "run")) == last
    assert f"{last} is damaged; resuming from the checkpoint before it" in caplog.text
    assert last.read_bytes() == previous  # so that the next one kept beside it is whole again
    train(compose_run(*options, run_dir=tmp_path / "run"))
    assert_alike(tmp_path / "run", tmp_path / "whole")


def test_no_checkpoint_while_gradients_are_pending(compose_run, tmp_path, monkeypatch):
    """Steps of two batches, and a checkpoint after every step, the first one after the second batch."""
    seen = []
    save = LastCheckpoint.save

    def note_and_save(self, trainer):
        seen.append((trainer.fit_loop.epoch_loop.batch_idx, trainer.global_step))
        save(self, trainer)

    monkeypatch.setattr(LastCheckpoint, "save", note_and_save)
    steps = ("trainer.accumulate_grad_batches=2", "checkpoint.every_n_steps=1", "data.batch_size=6")
    train(compose_run(*SMALL, *steps))
    assert seen == [(1, 1), (3, 2), (5, 3), (1, 4), (3, 5), (5, 6)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_group_that_is_told_to_stop_saves_too(photos, tmp_path, number, code):
    """As Slurm and systemd do it: the signal reaches the loader's workers as well."""
    common = ["data.image_size=32", "data.batch_size=2", "backbone.weights=null", "trainer=cpu", "logger=none"]
    more = ["data.num_workers=2", "trainer.max_epochs=200", *SMALL, f"hydra.run.dir={tmp_path / 'run'}"]
    command = [sys.executable, "-m", "tlab.train", f"data.root={photos}", *common, *more]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (tmp_path / "run/history.csv").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == code
    assert printed.count("stopping after this step") == 1
    assert f"hydra.run.dir={tmp_path / 'run'} resumes it" in printed
    assert "Traceback" not in printed


def test_a_failed_run_with_only_an_earlier_checkpoint_is_still_that_run(compose_run, tmp_path):
    train(compose_run(*SMALL))
    run = RunDirectory(tmp_path / "run")
    run.last.replace(run.previous)
    run.update(status="failed")
    with pytest.raises(UserError, match=r"another optimizer\.lr"):
        train(compose_run(*SMALL, "optimizer.lr=0.5"))
    with pytest.raises(UserError, match="already holds a run"):
        train(compose_run(*SMALL, "resume=never"))


def test_a_run_directory_has_one_process_at_a_time(compose_run, tmp_path):
    cfg = compose_run(*SMALL, run_dir=tmp_path / "run")
    hold = "import pathlib, sys; from tlab.runs.directory import RunDirectory\n"
    hold += "with RunDirectory(pathlib.Path(sys.argv[1])).recording({}): print('held', flush=True); input()"
    command = [sys.executable, "-c", hold, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        (tmp_path / "run/run.json").unlink()
        with pytest.raises(UserError, match="another process is at work"):
            train(cfg)
        other.kill()
    train(cfg)


def test_what_a_killed_process_was_writing_is_swept_away(tmp_path):
    run = RunDirectory(tmp_path)
    written = [run.last, run.best, run.previous, run.history_file, run.metrics_file, run.record_file]
    written += [run.unreadable_file, run.traceback_file, run.overrides_file, tmp_path / "confusion_test.csv"]
    written += [tmp_path / name for name in ("comparison_runs.csv", "report.html", "report_test.html")]
    left = []
    for file in written:
        with atomic_path(file) as temporary:
            temporary.write_text("{}")
            left.append(temporary)
    kept = [tmp_path / "notes.txt", tmp_path / ".mine", tmp_path / ".notes.txt.swp", run.last, run.history_file]
    for file in left + kept:
        file.touch()
    with run.recording({}):
        assert not any(file.exists() for file in left)
        assert all(file.exists() for file in kept)
