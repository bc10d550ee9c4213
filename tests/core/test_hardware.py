"""The number of cores, on systems that do and do not bind a process to some of them."""

import os

import cv2
import pytest
import torch

from tlab.core.hardware import SPINS, cpu_count, limit_spinning, limit_threads, single_threaded, thread_pool


def test_cores_are_those_the_process_is_bound_to(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 4, 6}, raising=False)
    assert cpu_count() == 3


def test_without_affinity_every_core_counts(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert cpu_count() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)  # it may not know
    assert cpu_count() == 1


def test_a_job_has_the_cores_that_it_was_given(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert cpu_count() == 3
    monkeypatch.setenv("TLAB_CORES", "2")  # a launcher inside the job
    assert cpu_count() == 2
    monkeypatch.setenv("TLAB_CORES", "64")  # never more than it is bound to
    assert cpu_count() == 8


@pytest.mark.parametrize(
    ("given", "then"),
    [
        ({}, {"GOMP_SPINCOUNT": SPINS}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_how_long_threads_wait_is_chosen_unless_the_user_has(monkeypatch, given, then):
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", dict(given))
        limit_spinning()
        assert os.environ == then


def test_torch_computes_with_the_share_of_the_process(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(os, "environ", {})  # not even what the tests have for their processes
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    try:
        limit_threads()
        assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (4, "4")
        assert os.environ["GOMP_SPINCOUNT"] == SPINS
        monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the user
        limit_threads()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_the_numbers_of_threads_come_back():
    def threads(_=None):
        return torch.get_num_threads(), cv2.getNumThreads()

    before = threads()
    try:
        torch.set_num_threads(3)
        cv2.setNumThreads(2)
        with single_threaded(), thread_pool(2) as pool:
            assert threads() == (1, 1)
            assert list(pool.map(threads, range(4))) == [(1, 1)] * 4
        assert threads() == (3, 2)
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
