"""What a launcher does without a cluster: a run in a fresh process, and mistakes in one sentence."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from remote_sweeps import environment, record

from tlab.core.signals import WARNINGS
from tlab.launchers import slurm
from tlab.launchers.remote_jobs import lost
from tlab.runs.directory import RunDirectory
from tlab.sweeps.result import Failure, over

# A launcher that is as far from the command as a cluster: it pickles each run to a file for another interpreter.
ELSEWHERE = """
import pickle, subprocess, sys
from hydra.core.plugins import Plugins
import cloudpickle  # as submitit does
Plugins.instance()  # loads the launchers
from tlab.launchers import slurm
from tlab.train import main

def launch(jobs, options):
    for number, job in enumerate(jobs):
        with open("job.pkl", "wb") as file:
            cloudpickle.dump(job, file)
        code = "import pickle\\nanswer = pickle.load(open('job.pkl', 'rb')).run()\\n"
        code += "pickle.dump(answer, open('answer.pkl', 'wb'))"
        subprocess.run([sys.executable, "-c", code], check=True, cwd="/")
        with open("answer.pkl", "rb") as file:
            yield number, pickle.load(file)

slurm.launch = launch
main()
"""


def test_a_fresh_process_carries_a_run_out(make_sweep, tmp_path):
    """It knows a backbone without a YAML file, and the folder that relative paths start from."""
    sweep = make_sweep("sweep")
    arguments = sweep.command(
        *("backbone=shufflenet_v2_x0_5", "backbone.upto=null"),
        *("finetune=head", "trainer.max_epochs=1", "hydra/launcher=submitit_slurm"),
    )[3:]
    code = ELSEWHERE.replace("open('", f"open('{tmp_path}/")
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments, "hydra.sweep.dir=sweep"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    returned = pickle.loads((tmp_path / "answer.pkl").read_bytes())
    assert returned == json.loads((sweep.run / "metrics.json").read_text())["val/acc"]
    assert record(sweep.run)["status"] == "finished"
    assert "backbone=shufflenet_v2_x0_5" in str(record(sweep.run)["command"])


def test_what_comes_back_of_a_run_that_raised():
    returned = over(JobReturn(status=JobStatus.FAILED, _return_value=ZeroDivisionError("division by zero\nmore")))
    assert returned == Failure("ZeroDivisionError: division by zero")


class Ended:
    """A job whose process is gone."""

    overrides: list[str] = []  # noqa: RUF012

    def __init__(self, path: Path) -> None:
        self.path = path

    def directory(self) -> RunDirectory:
        return RunDirectory(self.path)


def test_a_process_that_ended_without_a_word_is_noted_in_its_run(tmp_path):
    RunDirectory(tmp_path).update(status="running")
    returned = lost(Ended(tmp_path), "memory ran out")  # type: ignore[arg-type]
    assert returned == Failure("memory ran out")
    noted = record(tmp_path)
    assert (noted["status"], noted["error"]) == ("failed", "UserError: memory ran out")
    assert noted["ended"]


def test_a_run_that_had_finished_by_then_is_finished(tmp_path):
    RunDirectory(tmp_path).update(status="finished")
    assert lost(Ended(tmp_path), "the machine went down") is None  # type: ignore[arg-type]
    assert record(tmp_path)["status"] == "finished"


@pytest.mark.parametrize("preset", ["submitit_slurm", "ray"])
def test_the_presets_keys_are_those_of_their_files_only(preset, tmp_path):
    """Not merged with what a plugin of the same name has registered."""
    conf = Path(__file__).parents[2] / "conf" / "hydra" / "launcher" / f"{preset}.yaml"
    command = [sys.executable, "-m", "tlab.train", "data=demo", f"hydra/launcher={preset}", "--cfg", "hydra"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert set(OmegaConf.create(shown).hydra.launcher) == set(OmegaConf.load(conf))


@pytest.mark.parametrize(
    ("failures", "state", "requeued"), [(2, "RUNNING", True), (2, "PENDING", False), (99, "RUNNING", False)]
)
def test_a_preempted_job_waits_for_a_slurm_that_does_not_answer(monkeypatch, tmp_path, failures, state, requeued):
    for name, answer in {"squeue": f"echo 7 {state}", "scontrol": f"touch {tmp_path}/requeued"}.items():
        count = tmp_path / f"{name}.calls"
        script = f'#!/bin/sh\necho >> {count}\n[ "$(wc -l < {count})" -gt {failures} ] || exit 1\n{answer}\n'
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(slurm, "PAUSES", (0, 0, 0))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, *WARNINGS)}
    try:
        slurm._queue_again(128 + signal.SIGTERM, 3)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (tmp_path / "requeued").exists() == requeued


def test_a_machine_without_slurm_is_told_so(make_sweep, tmp_path):
    environment_ = {**os.environ, "PATH": str(tmp_path)}
    command = make_sweep("sweep").command("hydra/launcher=submitit_slurm")
    result = subprocess.run(command, capture_output=True, text=True, env=environment_, check=False)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("tlab: hydra/launcher=submitit_slurm found no sbatch here")
