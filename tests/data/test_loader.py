"""Worker processes: how many find room in shared memory, how they are started, and how their end is told."""

import os
import signal
import sys

import pytest
import torch
from torch.utils.data import SequentialSampler

from tlab.core.machine_failures import machine_failure
from tlab.data import loader
from tlab.data.batch import Batch
from tlab.data.loader import fit_shared_memory, make_loader
from tlab.data.sampler import SampleKey

MB = 10**6


class Images:
    """Four images, whose worker dies at the third where it is told so."""

    image_size, is_threadsafe, kills = 4, True, False
    samples, skipped = (), {}

    def batch(self, keys):
        if self.kills and keys[0].index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return Batch(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1), torch.zeros(1))


def loaded(images):
    return list(make_loader(images, [SampleKey(0, index) for index in range(4)], 1, num_workers=1))


@pytest.mark.parametrize(
    ("workers", "free", "may_choose", "fitting", "said"),
    [
        (4, 90 * MB, True, 4, 0),
        (4, 89 * MB, True, 3, 1),
        (4, 49 * MB, True, 1, 1),
        (4, 20 * MB, True, 0, 1),
        (4, 20 * MB, False, 4, 1),
        (0, 0, True, 0, 0),
        (4, None, True, 4, 0),  # no such system
    ],
)
def test_no_more_workers_than_find_room(monkeypatch, caplog, workers, free, may_choose, fitting, said):
    loader._remark.cache_clear()
    monkeypatch.setattr(loader, "free_shared_memory", lambda: free)
    for _ in range(2):  # the loaders of a run say it once
        assert fit_shared_memory(workers, 10 * MB, may_choose) == fitting
    assert len(caplog.records) == said
    assert all("10 MB" in record.message and "--shm-size" in record.message for record in caplog.records)


def test_batches_without_room_end_the_wait(monkeypatch):
    """Real, as root: `unshare -m bash -c 'mount -t tmpfs -o size=1m tmpfs /dev/shm; ...'`."""

    def share_memory_(self):
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_1>: No space left on device (28)"
        )

    monkeypatch.setattr(torch.Tensor, "share_memory_", share_memory_)
    with pytest.raises(RuntimeError) as error:
        loaded(Images())
    assert "data.num_workers=0" in machine_failure(error.value)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_worker_is_told(monkeypatch):
    monkeypatch.setattr(Images, "kills", True)
    with pytest.raises(RuntimeError) as error:
        loaded(Images())
    assert "data.num_workers=0" in machine_failure(error.value)


def test_the_start_method_is_named():
    made = make_loader(Images(), SequentialSampler(range(4)), 1, num_workers=1)
    assert made.multiprocessing_context.get_start_method() == loader.START_METHOD
