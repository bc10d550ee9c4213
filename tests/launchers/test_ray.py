"""Sweeps through a real Ray on this machine."""

import os
import signal
from pathlib import Path

import pytest
from remote_sweeps import differing, history, record

pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.slow
RAY = ("hydra/launcher=ray", "hydra.launcher.init.num_cpus=2")


def test_tasks_leave_what_runs_here_leave_and_mistakes_come_back(make_sweep):
    arguments = ("optimizer.lr=0.01,1e30", "scheduler=none", "trainer.max_epochs=2")
    there, here = make_sweep("there"), make_sweep("here")
    result = there.give(*arguments, *RAY)
    here.give_here(*arguments)
    assert result.returncode == 1, result.stdout + result.stderr
    good, bad = (there.directory / f"optimizer.lr={lr}" / "seed=0" for lr in ("0.01", "1e+30"))
    assert differing(good, here.directory / "optimizer.lr=0.01" / "seed=0") == []
    assert str(record(bad)["error"]).startswith("UserError: train/loss became ")
    assert "failed: train/loss became " in result.stdout
    assert result.stderr == ""


def worker_of(sweep):
    """Return the process in which Ray has the run: the one that holds its lock."""
    lock = (sweep.run / ".lock").stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[5].endswith(f":{lock}"):
            return int(fields[4])
    raise AssertionError("nobody is at work on the run")


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="looks for the process where Linux lists its locks")
def test_a_run_whose_process_is_killed_begins_again_from_its_checkpoint(make_sweep):
    there, here = make_sweep("there"), make_sweep("here")
    arguments = ("trainer.max_epochs=30", "checkpoint.every_n_steps=1")
    process = there.start(*arguments, *RAY)
    there.await_epochs(process, 3)
    os.kill(worker_of(there), signal.SIGKILL)
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 0, printed
    assert [row["epoch"] for row in history(there.run)] == [str(epoch) for epoch in range(30)]
    assert (there.run / "train.log").read_text().count("resuming from") == 1
    here.give_here(*arguments)
    assert differing(there.run, here.run) == []


def test_ctrl_c_lets_the_runs_save(make_sweep):
    there = make_sweep("there")
    process = there.start("trainer.max_epochs=500", *RAY)
    there.await_epochs(process, 3)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    assert record(there.run)["error"] == "interrupted"
    assert (there.run / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "hydra.launcher.remote.num_gpus=9",
            "hydra.launcher.remote.num_gpus=9 is more than any machine of Ray's has",
        ),
        (
            "hydra.launcher.init.address=127.0.0.1:1",
            "no Ray cluster answers at hydra.launcher.init.address=127.0.0.1:1",
        ),
    ],
)
def test_mistakes(make_sweep, override, words):
    ray = [argument for argument in RAY if "address" not in override or "num_cpus" not in argument]
    result = make_sweep("there").give(*ray, override)
    assert result.returncode == 2
    assert words in result.stderr.splitlines()[-1]
