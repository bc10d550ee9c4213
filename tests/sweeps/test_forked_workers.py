"""Helpers of a sweep: when there are any, that their runs are the same runs, and that none is lost."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from test_sweeps import owner, records, result, started, statuses, sweep
from tlab.core.errors import UserError
from tlab.core.hardware import cpu_count
from tlab.sweeps.forked_workers import choose_processes, keeps_one_core_busy

GRID = ("seed=0,1,2", "optimizer.lr=0.1,0.01")
several_cores = pytest.mark.skipif(
    cpu_count() < 2 or sys.platform != "linux", reason="a worker needs a core and fork"
)


def pids(directory: Path) -> set[str]:
    """Processes that have written event files."""
    return {file.name.split(".")[-2] for file in directory.glob("*/seed=*/events.out.tfevents.*")}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["finetune=head"], True),
        (["finetune=head", "aug=strong"], True),
        (["finetune=head", "trainer=auto"], True),
        (["finetune=head", "features.cache=off"], False),
        (["finetune=head", "aug.mix.mixup_alpha=0.2"], True),
        (["finetune=head", "aug.mix.cutmix_alpha=1.0"], False),
        (["finetune=head", "+aug@finetune.phases.head.aug=none"], True),
        (["finetune=head", "trainer.limit_train_batches=2"], False),
        (["finetune=head", "trainer=ddp"], False),
        (["finetune=lp_ft"], False),
        (["finetune=full"], False),
    ],
)
def test_only_a_head_keeps_one_core_busy(compose_run, monkeypatch, overrides, expected):
    monkeypatch.setattr("tlab.sweeps.forked_workers.gpus", list)
    assert keeps_one_core_busy(compose_run(*overrides)) is expected


def test_a_gpu_is_not_shared(compose_run, monkeypatch):
    monkeypatch.setattr("tlab.sweeps.forked_workers.gpus", lambda: ["0"])
    assert not keeps_one_core_busy(compose_run("finetune=head", "trainer=auto"))
    assert keeps_one_core_busy(compose_run("finetune=head", "trainer=cpu"))


@pytest.mark.parametrize(
    ("n_jobs", "waiting", "memory", "expected"),
    [
        (None, 12, 64e9, 6),
        (None, 4, 64e9, 3),
        (None, 3, 64e9, 1),
        (None, 12, 5e9, 2),
        (None, 12, 1e9, 1),
        (1, 12, 64e9, 1),
        (2, 12, 64e9, 2),
    ],
)
def test_there_are_as_many_processes_as_cores_memory_and_runs_allow(
    compose_run, monkeypatch, n_jobs, waiting, memory, expected
):
    monkeypatch.setattr("tlab.sweeps.forked_workers.cpu_count", lambda: 6)
    monkeypatch.setattr("tlab.sweeps.forked_workers.free_memory", lambda: int(memory))
    monkeypatch.setattr("tlab.sweeps.forked_workers._can_fork", lambda: True)
    config = OmegaConf.create({"hydra": {"launcher": {"n_jobs": n_jobs}}})
    assert choose_processes(config, [compose_run("finetune=head")], waiting) == expected
    assert choose_processes(config, [compose_run("finetune=head"), compose_run()], waiting) == 1


def test_a_process_that_has_imported_torch_is_not_forked(compose_run):
    config = OmegaConf.create({"hydra": {"launcher": {"n_jobs": 2}}})
    assert choose_processes(config, [compose_run("finetune=head")], 12) == 1


@pytest.mark.parametrize("n_jobs", [0, -1, "many"])
def test_no_number_of_processes_is_a_mistake(compose_run, n_jobs):
    config = OmegaConf.create({"hydra": {"launcher": {"n_jobs": n_jobs}}})
    with pytest.raises(UserError, match=rf"hydra\.launcher\.n_jobs={n_jobs} must be"):
        choose_processes(config, [compose_run("finetune=head")], 12)


@pytest.mark.slow
@several_cores
def test_runs_of_helpers_are_the_same_runs(photos, tmp_path):
    for name, one in {"beside": [], "alone": ["hydra.launcher.n_jobs=1"]}.items():
        done = sweep(photos, tmp_path / name, *GRID, "logger=tensorboard", "trainer.max_epochs=5", *one)
        assert done.returncode == 0, done.stderr
        assert "6 of 6 runs are finished" in done.stdout
    assert len(pids(tmp_path / "beside")) == 2
    assert len(pids(tmp_path / "alone")) == 1
    assert len(statuses(tmp_path / "alone")) == 6
    assert statuses(tmp_path / "beside") == statuses(tmp_path / "alone")
    for name in statuses(tmp_path / "alone"):
        assert result(tmp_path / "beside" / name) == result(tmp_path / "alone" / name)
        assert re.search(r"epoch +5/5", (tmp_path / "beside" / name / "output.txt").read_text())


def under_way(directory: Path, command_pid: int) -> Path | None:
    """The run that a worker is training, if there is one."""
    for history in directory.glob("*/seed=*/history.csv"):
        if owner(history.parent / ".lock") not in (None, command_pid):
            return history.parent
    return None


@several_cores
def test_a_helper_that_is_killed_costs_its_run_only(photos, tmp_path):
    process = started(photos, tmp_path / "sweep", *GRID, "trainer.max_epochs=40")
    while (run := under_way(tmp_path / "sweep", process.pid)) is None:
        assert process.poll() is None
        time.sleep(0.02)
    killed = owner(run / ".lock")
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1, printed
    found = statuses(tmp_path / "sweep")
    assert found.pop(f"{run.parent.name}/{run.name}") == "failed"
    assert list(found.values()) == ["finished"] * 5
    assert "its process ended without a word; if memory ran out, give hydra.launcher.n_jobs=1" in printed
    again = sweep(photos, tmp_path / "sweep", *GRID, "trainer.max_epochs=40")
    assert again.returncode == 0, again.stderr
    assert set(statuses(tmp_path / "sweep").values()) == {"finished"}


@several_cores
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_helpers_save_when_the_sweep_is_stopped(photos, tmp_path, number):
    directory = tmp_path / "sweep"
    long = (*GRID, "trainer.max_epochs=300", "data.batch_size=2")
    process = started(photos, directory, *long)
    while (helped := under_way(directory, process.pid)) is None:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=90)
    assert process.returncode == 128 + number, printed
    assert "Traceback" not in printed
    assert "the sweep is stopped, 0 of 6 runs are finished" in printed
    begun = {name: record["error"] for name, record in records(directory).items()}
    assert len(begun) == 2
    assert set(begun.values()) == {"interrupted"}
    assert all((directory / name / "checkpoints/last.ckpt").exists() for name in begun)
    assert owner(helped / ".lock") is None


@several_cores
def test_a_helper_ends_with_a_command_that_is_killed(photos, tmp_path):
    directory = tmp_path / "sweep"
    process = started(photos, directory, *GRID, "trainer.max_epochs=300", "data.batch_size=2")
    while (helped := under_way(directory, process.pid)) is None:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while owner(helped / ".lock") is not None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert owner(helped / ".lock") is None
    assert records(directory)[f"{helped.parent.name}/{helped.name}"]["error"] == "interrupted"
    assert (helped / "checkpoints/last.ckpt").exists()
