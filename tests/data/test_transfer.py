"""Batches arrive in order, one ahead of the step, and only what a step took counts."""

from contextlib import contextmanager
from functools import partial

import pytest
import torch

from tlab.data import loader as loader_module
from tlab.data import transfer
from tlab.data.datamodule import ImageDataModule
from tlab.data.dataset import Batch
from tlab.data.index import folder_index
from tlab.data.transfer import SideStream, one_ahead
from tlab.errors import UserError


def test_each_batch_has_begun_when_the_one_before_is_handed_over():
    events = []

    def begin(batch):
        events.append(f"begin {batch}")
        return lambda: events.append(f"wait {batch}") or batch

    for batch in one_ahead([0, 1, 2], begin):
        events.append(f"step {batch}")
    assert events == [
        *("begin 0", "begin 1", "wait 0", "step 0"),
        *("begin 2", "wait 1", "step 1", "wait 2", "step 2"),
    ]


@pytest.mark.parametrize("batches", [[], [1], [1, 2]])
def test_few_batches_all_arrive(batches):
    assert list(one_ahead(batches, lambda batch: lambda: batch)) == batches


def test_mistake_comes_in_its_turn_and_ends_the_batches():
    mistake = UserError("gone")
    assert list(one_ahead([1, 2, mistake, 3], lambda batch: lambda: batch)) == [1, 2, mistake]
    assert list(one_ahead([mistake], lambda batch: lambda: batch)) == [mistake]


class FakeStream:
    def __init__(self, name, events):
        self.name, self.events = name, events

    def record_event(self):
        self.events.append(f"{self.name} records")
        return "copied"

    def wait_event(self, event):
        self.events.append(f"{self.name} waits for {event}")


@pytest.fixture
def streams(monkeypatch):
    """CUDA's streams, which only note what is asked of them; the device is the CPU."""
    events: list[str] = []
    side, computing, on = FakeStream("side", events), FakeStream("computing", events), ["computing"]

    @contextmanager
    def stream(chosen):
        on.append(chosen.name)
        yield
        on.pop()

    move = transfer.on_device

    def on_device(batch, device):
        events.append(f"copy on {on[-1]}")
        return move(batch, device)

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda tensor, stream: events.append(f"kept for {stream.name}")
    )
    monkeypatch.setattr(transfer, "on_device", on_device)
    return events


def test_copy_runs_on_the_side_and_the_step_waits_for_it(streams):
    batch = Batch(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), torch.tensor([5, 6]), "layer1")
    ready = SideStream(torch.device("cpu"), lambda batch: batch)(batch)
    assert streams == ["copy on side", "side records"]
    there = ready()
    assert streams[2:] == ["computing waits for copied", *["kept for computing"] * 3]
    assert type(there) is Batch
    assert there.after == "layer1"
    assert all(torch.equal(a, b) for a, b in zip(there[:3], batch[:3], strict=True))


@pytest.fixture
def data(make_folder):
    module = ImageDataModule(
        partial(folder_index, make_folder({"train/a": 9, "train/b": 7, "val/a": 3, "val/b": 3})),
        image_size=16,
        batch_size=5,
        num_workers=0,
    )
    module.setup()
    return module


class SideDevice:
    """Stands for a GPU: tensors that are moved there stay where they are."""

    type = "cuda"


@pytest.fixture
def sent(monkeypatch):
    """Let a loader believe that it serves a GPU."""
    monkeypatch.setattr(loader_module, "SideStream", lambda device, finish: lambda batch: lambda: finish(batch))

    def send(loader):
        loader.device = SideDevice()
        return loader

    return send


def test_batches_copied_ahead_are_the_same_and_do_not_count(data, sent):
    plain = list(data.train_dataloader())
    loader = sent(data.train_dataloader())
    batches = iter(loader)
    first = next(batches)
    assert loader.state_dict() == {"epoch": 0, "batches": 1}
    second = next(batches)
    assert loader.state_dict() == {"epoch": 0, "batches": 2}
    rest = list(batches)
    assert loader.state_dict()["batches"] == len(plain) == 3
    for got, wanted in zip([first, second, *rest], plain, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(got[:3], wanted[:3], strict=True))


def test_resumed_loader_goes_on_after_the_batches_that_were_taken(data, sent):
    plain = list(data.train_dataloader())
    stopped = sent(data.train_dataloader())
    batches = iter(stopped)
    next(batches)
    state = stopped.state_dict()
    batches.close()
    stopped.load_state_dict(state)
    rest = list(stopped)
    assert [batch.index.tolist() for batch in rest] == [batch.index.tolist() for batch in plain[1:]]


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_file_is_named_after_the_batches_before_it(data, sent, workers):
    data.num_workers = workers
    loader = sent(data.train_dataloader())
    keys = loader.sampler.keys(0)
    data.index.splits["train"][keys[7].index].path.unlink()  # in the second batch
    batches = iter(loader)
    next(batches)
    with pytest.raises(UserError, match="no such file"):
        next(batches)
    assert loader.state_dict()["batches"] == 2
    assert not loader.has_workers


def test_loader_of_a_cpu_copies_nothing(data):
    loader = data.train_dataloader()
    loader.device = torch.device("cpu")
    assert len(list(loader)) == 3
