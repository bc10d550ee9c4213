"""Processes of a sweep on one machine: each has its place, its share of the machine, and a file to print to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tlab.core.hardware import cpu_count, gpus
from tlab.sweeps.worker_pool import shares

WORKER = """
import os, sys
from pathlib import Path
from tlab.sweeps.worker_pool import WorkerPool
machine = WorkerPool(Path(sys.argv[1]), os.getppid(), 2, ("0,1", "2,3"))
for number in range(2):
    with machine.work(Path(sys.argv[2]) / f"{number}.txt"):
        os.system("echo from a child")
        print(os.environ["CUDA_VISIBLE_DEVICES"], os.environ["TLAB_CORES"], flush=True)
print("ready", flush=True)
input()
"""


STOPPED = """
import os, sys
from pathlib import Path
from tlab.sweeps.worker_pool import WorkerPool
machine = WorkerPool(Path(sys.argv[1]), os.getppid(), 2, ())
for number in range(2):
    try:
        with machine.work(Path(sys.argv[2]) / f"{number}.txt"):
            print("begun", flush=True)
            raise SystemExit(143)  # as a run that has saved
    except SystemExit:
        continue
"""


def test_a_worker_that_was_stopped_in_a_run_takes_no_other(tmp_path):
    (tmp_path / "places").mkdir()
    command = [sys.executable, "-c", STOPPED, str(tmp_path / "places"), str(tmp_path)]
    subprocess.run(command, check=True)
    assert (tmp_path / "0.txt").read_text() == "begun\n"
    assert not (tmp_path / "1.txt").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="places are locked by fcntl")
def test_workers_have_a_share_of_the_machine_each(tmp_path):
    (tmp_path / "places").mkdir()
    arguments = [sys.executable, "-c", WORKER, str(tmp_path / "places")]
    workers = []
    for name in ("a", "b"):
        process = subprocess.Popen(
            [*arguments, str(tmp_path / name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"  # all before that went to the files
        workers.append(process)
    share = max(1, cpu_count() // 2)
    for name, visible in {"a": "0,1", "b": "2,3"}.items():
        for number in range(2):
            assert (tmp_path / name / f"{number}.txt").read_text() == f"from a child\n{visible} {share}\n"
    noted = {int(file.read_text()) for file in (tmp_path / "places").iterdir()}
    assert noted == {process.pid for process in workers}
    workers[0].kill()  # its place is free again
    workers[0].wait()
    with subprocess.Popen(
        [*arguments, str(tmp_path / "c")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as third:
        assert third.stdout.readline() == "ready\n"
        third.stdin.close()
    workers[1].communicate("")
    assert (tmp_path / "c/0.txt").read_text().endswith(f"0,1 {share}\n")


def test_gpus_are_those_the_process_may_see(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    assert gpus() == ["3", "5", "7"]
    assert shares(1) == ("3", "5", "7")
    assert shares(2) == ("3,5",)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: One (UUID: GPU-1)'\necho 'GPU 1: Two (UUID: GPU-2)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert gpus() == ["0", "1"]
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert gpus() == []
    monkeypatch.setenv("PATH", str(Path(tmp_path / "nowhere")))
    assert gpus() == []
