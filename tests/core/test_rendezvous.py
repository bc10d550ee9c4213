"""Several machines: which of them this is, and that two train as one with two processes does."""

import os
import subprocess
import sys

import pytest
import torch

from tlab.core import rendezvous
from tlab.core.errors import UserError
from tlab.core.processes import first_process, join_nodes, run_in_processes
from tlab.core.rendezvous import Node, this_node


@pytest.fixture(autouse=True)
def _nothing_says_it(monkeypatch):
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name)


def say(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_torchruns_variables_say_it(monkeypatch):
    say(monkeypatch, NODE_RANK="1", MASTER_ADDR="first", MASTER_PORT="1234")
    assert this_node(2) == Node(1, "first", 1234)


def test_the_meetings_of_jobs_that_follow_each_other_have_ports_of_their_own(monkeypatch):
    ports = set()
    for job in ("9990", "9991", "9992"):
        monkeypatch.setattr(rendezvous, "_meetings", 0)
        say(monkeypatch, SLURM_PROCID="0", SLURM_NTASKS="2", SLURM_JOB_ID=job, SLURM_JOB_NODELIST="gpu[07-08]")
        ports |= {rendezvous.next_rendezvous(2)[0].port for _ in range(3)}
    assert len(ports) == 9
    assert ports <= set(rendezvous.PORTS)


def test_a_slurm_step_says_it(monkeypatch):
    say(monkeypatch, SLURM_PROCID="2", SLURM_NTASKS="3", SLURM_JOB_ID="10007", SLURM_JOB_NODELIST="gpu[07-09]")
    assert this_node(3) == Node(2, "gpu07", 20007)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "trainer.num_nodes=2 is for a job on 2 machines; give -m hydra/launcher=submitit_slurm"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, "needs a job step of 2 tasks, and this one has 1"),
        ({"NODE_RANK": "2", "MASTER_ADDR": "first", "MASTER_PORT": "1"}, "NODE_RANK=2 is not one of the"),
        ({"NODE_RANK": "x", "MASTER_ADDR": "first", "MASTER_PORT": "1"}, "NODE_RANK=x is not a number"),
    ],
)
def test_mistakes(monkeypatch, variables, words):
    say(monkeypatch, **variables)
    with pytest.raises(UserError, match=words):
        this_node(2)


def test_only_the_first_node_writes(monkeypatch):
    say(monkeypatch, NODE_RANK="1", MASTER_ADDR="first", MASTER_PORT="1234")
    try:
        assert join_nodes(2) == 1
        assert not first_process()
    finally:
        assert join_nodes(1) == 0
    assert first_process()


def test_the_task_of_a_slurm_step_that_is_one_of_several_runs_writes(monkeypatch):
    """Lightning would take it for the second process of one run, and log nothing."""
    from lightning_utilities.core.rank_zero import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    join_nodes(1)
    assert rank_zero_only.rank == 0


def test_a_node_that_waits_in_vain_says_so(monkeypatch):
    monkeypatch.setattr(rendezvous, "RENDEZVOUS_TIMEOUT", 1)
    say(monkeypatch, NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="23871")
    with pytest.raises(UserError, match=r"node 0 of trainer\.num_nodes=2 waited in vain for the others at 127"):
        run_in_processes(print, (), 1, "gloo", 2)


def test_too_few_images_for_all_processes(compose_run):
    from tlab.config.validation import check_shares

    with pytest.raises(
        UserError, match=r"trainer\.devices=2 on trainer\.num_nodes=3 is too many for 5 images of val"
    ):
        check_shares({"train": 100, "val": 5}, 2, 3)


@pytest.mark.slow
def test_two_nodes_train_as_two_processes_of_one_do(photos, tmp_path):
    quick = (
        "data.image_size=32",
        "data.num_workers=0",
        "backbone.weights=null",
        "data.batch_size=6",
        "logger=none",
    )
    small = (
        "trainer.accelerator=cpu",
        "trainer.precision=32-true",
        "trainer.max_epochs=2",
        "finetune.head_epochs=1",
        "head.solver=sgd",
    )
    command = [sys.executable, "-m", "tlab.train", *quick, *small, f"data.root={photos}"]

    def start(run, *arguments, **variables):
        return subprocess.Popen(
            [*command, *arguments, f"hydra.run.dir={tmp_path / run}"],
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "23872"}
    both = [start("two", "trainer.num_nodes=2", NODE_RANK=str(rank), **meeting) for rank in range(2)]
    printed = [node.communicate(timeout=300)[0] for node in both]
    assert [node.returncode for node in both] == [0, 0], printed
    assert "epoch   2/2" in printed[0]
    assert printed[1] == ""
    one = start("one", "trainer=ddp", "trainer.accelerator=cpu")
    assert one.communicate(timeout=300) is not None
    assert one.returncode == 0
    first, second = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("one", "two")
    )
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
