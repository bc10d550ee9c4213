"""Cores and memory, on systems that do and do not limit a process to some of them."""

import os

import cv2
import pytest
import torch

from tlab.core import hardware
from tlab.core.hardware import (
    SPINS,
    cpu_count,
    free_memory,
    limit_spinning,
    limit_threads,
    single_threaded,
    stay_within_cores,
    thread_pool,
)


@pytest.fixture(autouse=True)
def container(tmp_path, monkeypatch):
    """Write the files that say what a control group grants, below an empty tree; none at first."""
    monkeypatch.setattr(hardware, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(hardware, "OWN_CGROUP", tmp_path / "own")

    def write(own, files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "cgroup" / name).write_text(text)

    return write


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
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),  # one and a half: a second thread has work
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {}, 8),
        ("0::/pods/one/two\n", {"pods/cpu.max": "300000 100000\n", "pods/one/two/cpu.max": "max 100000\n"}, 3),
        ("0::/only/outside\n", {"cpu.max": "400000 100000\n"}, 4),  # the container's own group is its root
        (
            "4:memory:/a\n3:cpu,cpuacct:/docker/1\n0::/\n",
            {"cpu,cpuacct/docker/1/cpu.cfs_quota_us": "500000", "cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000"},
            5,
        ),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_a_container_has_the_cores_of_its_quota(monkeypatch, container, own, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    container(own, files)
    assert cpu_count() == cores


@pytest.mark.parametrize(
    ("own", "files", "free"),
    [
        ("0::/\n", {"memory.max": "3000", "memory.current": "2000", "memory.stat": "inactive_file 500\n"}, 1500),
        ("0::/\n", {"memory.max": "3000", "memory.current": "4000", "memory.stat": "anon 1\n"}, 0),
        ("0::/\n", {"memory.max": "max", "memory.current": "2000", "memory.stat": ""}, 9000 * 1024),
        ("0::/\n", {}, 9000 * 1024),
        (
            "4:memory:/b\n0::/a\n",
            {
                "memory/b/memory.limit_in_bytes": "3000",
                "memory/b/memory.usage_in_bytes": "1000",
                "memory/b/memory.stat": "inactive_file 5\ntotal_inactive_file 7\n",
            },
            2007,
        ),
    ],
)
def test_a_container_has_the_memory_of_its_limit(tmp_path, monkeypatch, container, own, files, free):
    (tmp_path / "meminfo").write_text("MemFree: 1 kB\nMemAvailable: 9000 kB\n")
    monkeypatch.setattr(hardware, "MEMORY", tmp_path / "meminfo")
    container(own, files)
    assert free_memory() == free


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
        torch.set_num_threads(6)
        stay_within_cores()
        assert torch.get_num_threads() == 4
        torch.set_num_threads(3)  # of OMP_NUM_THREADS
        stay_within_cores()
        assert torch.get_num_threads() == 3
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
