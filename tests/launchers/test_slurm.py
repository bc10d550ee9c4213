"""Sweeps through a real Slurm, where there is one: as here, and stopped in all the ways that a job can be."""

import shutil
import signal
import subprocess
import time

import pytest
from remote_sweeps import differing, history, record

pytestmark = pytest.mark.slow
SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1")
LONG = ("trainer.max_epochs=30",)


@pytest.fixture(scope="module", autouse=True)
def _slurm() -> None:
    """Skip where no Slurm answers, which takes some seconds to find out: not on import, which every run does."""
    if (
        shutil.which("sinfo") is None
        or subprocess.run(["sinfo", "-h"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no Slurm answers here")


def jobs_of(sweep):
    """Return the ids of a sweep's jobs, which are named after its directory."""
    command = ["squeue", "--noheader", "--array", f"--name={sweep.directory}", "--format=%i"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def named(sweep):
    return f"hydra.launcher.name={sweep.directory}"


def end(process):
    printed = process.communicate(timeout=300)[0]
    return process.returncode, printed


def test_jobs_leave_what_runs_here_leave_and_mistakes_come_back(make_sweep):
    arguments = ("seed=0,1", "optimizer.lr=0.01,1e30", "scheduler=none", "trainer.max_epochs=2")
    there = make_sweep("there")
    result = there.give(*arguments, *SLURM, named(there))
    here = make_sweep("here")
    here.give_here(*arguments)
    assert result.returncode == 1
    assert "2 of 4 runs are finished" in result.stdout
    for seed in (0, 1):
        good, bad = (there.directory / f"optimizer.lr={lr}" / f"seed={seed}" for lr in ("0.01", "1e+30"))
        assert differing(good, here.directory / "optimizer.lr=0.01" / f"seed={seed}") == []
        assert {file.name for file in good.iterdir()} == {
            file.name for file in (here.directory / "optimizer.lr=0.01" / f"seed={seed}").iterdir()
        }
        assert str(record(bad)["error"]).startswith("UserError: train/loss became ")
    assert "failed: train/loss became " in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.parametrize("warning", ["USR2", "TERM", "requeue"])
def test_a_job_that_is_stopped_early_saves_is_queued_again_and_goes_on(make_sweep, warning):
    """Time is up (USR2), another job takes the place (TERM, the job still counts as running), or by hand."""
    there = make_sweep("there")
    process = there.start(*LONG, *SLURM, named(there))
    there.await_epochs(process, 3)
    (job,) = jobs_of(there)
    stop = ["scontrol", "requeue", job] if warning == "requeue" else ["scancel", f"--signal={warning}", job]
    subprocess.run(stop, check=True)
    began = record(there.run)["started"]
    deadline = time.monotonic() + 200
    while record(there.run)["started"] == began:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        # Slurm puts off a job that is queued again for two minutes
        subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now"], capture_output=True, check=False)
        time.sleep(1)
    code, printed = end(process)
    assert code == 0, printed
    assert [row["epoch"] for row in history(there.run)] == [str(epoch) for epoch in range(30)]
    log = (there.directory / ".submitit" / f"{job}_0_log.out").read_text()
    assert log.count("resuming from") == 1
    here = make_sweep("here")
    here.give_here(*LONG)
    assert differing(there.run, here.run) == []


def test_a_cancelled_job_saves_and_is_not_queued_again(make_sweep):
    there = make_sweep("there")
    process = there.start(*LONG, *SLURM, named(there))
    there.await_epochs(process, 3)
    subprocess.run(["scancel", *jobs_of(there)], check=True)
    code, printed = end(process)
    assert code == 1
    assert "ended as CANCELLED" in printed
    assert (there.run / "checkpoints" / "last.ckpt").exists()
    assert jobs_of(there) == []
    assert record(there.run)["status"] == "failed"


def test_ctrl_c_cancels_the_jobs_which_save(make_sweep):
    there = make_sweep("there")
    process = there.start(*LONG, *SLURM, named(there), "seed=0,1,2")
    there.await_epochs(process, 3)
    process.send_signal(signal.SIGINT)
    code, printed = end(process)
    assert code == 130
    assert "cancelling 3 jobs of Slurm" in printed
    assert "Traceback" not in printed
    assert jobs_of(there) == []
    assert record(there.run)["error"] == "interrupted"
    assert (there.run / "checkpoints" / "last.ckpt").exists()


def test_what_slurm_refuses_is_said_in_one_sentence(make_sweep):
    there = make_sweep("there")
    result = there.give(*SLURM, "hydra.launcher.partition=none_of_that_name")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("tlab: Slurm refused the jobs (")
    assert "Traceback" not in result.stderr
