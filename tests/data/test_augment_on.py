"""Where images are augmented: as asked for, or where it was measured to be faster on a GPU."""

import json
import logging
from functools import partial

import pytest
import torch
from torchvision.transforms import v2

from tlab.cache import cache_dir
from tlab.checks import check
from tlab.command import compose
from tlab.data import augment_on
from tlab.data.color import GaussianNoise
from tlab.data.datamodule import ImageDataModule
from tlab.data.index import folder_index
from tlab.data.order import Key
from tlab.data.warp import RandomHorizontalFlip, RandomResizedCrop
from tlab.errors import UserError

SIZE = 16
OWN = {"crop": RandomResizedCrop(SIZE), "flip": RandomHorizontalFlip(), "noise": GaussianNoise()}
GPU = torch.device("cuda")


def module(root, **options):
    options = {"image_size": SIZE, "batch_size": 4, "num_workers": 0, "augment": OWN} | options
    data = ImageDataModule(partial(folder_index, root), **options)
    data.setup()
    return data


@pytest.fixture
def root(make_folder):
    return make_folder({"train/a": 5, "train/b": 4, "val/a": 2, "val/b": 2})


@pytest.fixture
def dataset(root):
    return module(root).train_dataloader().images


KEYS = [Key(0, index) for index in range(9)]


def test_measuring_times_both_ways_and_compares_them_without_noise(dataset):
    before = torch.default_generator.get_state()
    found = augment_on.measure(dataset, KEYS, torch.device("cpu"))
    assert found["cpu"] > 0
    assert found["device"] > 0
    assert found["apart"] == 0  # the device is the CPU here
    assert 0 < found["bytes"] <= 3 * 40 * 30  # what was cropped of pictures of 40 x 30 pixels
    assert torch.equal(torch.default_generator.get_state(), before)


@pytest.fixture
def measured(monkeypatch):
    """Let measuring on a GPU find these figures; counts how often it is done."""
    calls = []

    def set_(**figures):
        def measure(*args):
            calls.append(args)
            if isinstance(figures.get("apart"), Exception):
                raise figures["apart"]
            return {"apart": 0.2, "bytes": 1000, **figures}

        monkeypatch.setattr(augment_on, "measure", measure)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some GPU")
        return calls

    return set_


@pytest.mark.parametrize(
    ("figures", "where"),
    [
        ({"cpu": 100, "device": 150}, "device"),
        ({"cpu": 100, "device": 105}, "cpu"),  # no clear difference
        ({"cpu": 100, "device": 50}, "cpu"),
        ({"cpu": 100, "device": 900, "apart": 3.0}, "cpu"),  # other pixels
    ],
)
def test_auto_takes_the_clearly_faster_way_and_remembers_it(dataset, measured, figures, where):
    calls = measured(**figures)
    for _ in range(2):
        assert augment_on.choose("auto", dataset, "", KEYS, GPU)[0] == where
    assert len(calls) == 1
    (remembered,) = json.loads((cache_dir() / "augment.json").read_text())
    assert "some GPU" in remembered
    assert "RandomResizedCrop" in remembered


def test_device_that_fails_is_not_taken_nor_remembered(dataset, measured):
    measured(apart=RuntimeError("CUDA out of memory\nmore"))
    where, why = augment_on.choose("auto", dataset, "", KEYS, GPU)
    assert (where, why) == ("cpu", "the GPU could not be tried (CUDA out of memory)")
    assert not (cache_dir() / "augment.json").exists()


def test_memory_that_is_damaged_is_measured_anew(dataset, measured):
    cache_dir().mkdir(parents=True, exist_ok=True)
    (cache_dir() / "augment.json").write_text("{")
    measured(cpu=1, device=2)
    assert augment_on.choose("auto", dataset, "", KEYS, GPU)[0] == "device"


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_auto_never_measures_without_cuda(dataset, measured, device):
    calls = measured(cpu=1, device=100)
    assert augment_on.choose("auto", dataset, "", KEYS, torch.device(device)) == ("cpu", "")
    assert not calls


def test_little_shared_memory_keeps_images_on_the_cpu(dataset, measured, monkeypatch):
    measured(cpu=100, device=900)
    monkeypatch.setattr(augment_on, "free_shared_memory", lambda: 1_000_000)
    assert augment_on.choose("auto", dataset, "", KEYS, GPU, queued=499)[0] == "device"
    where, why = augment_on.choose("auto", dataset, "", KEYS, GPU, queued=501)
    assert where == "cpu"
    assert "workers would hold 0.0 GB in /dev/shm" in why


def test_images_that_workers_hold_ready_are_counted(root, monkeypatch):
    seen = []
    monkeypatch.setattr(augment_on, "choose", lambda *args: seen.append(args[-1]) or ("cpu", ""))
    for workers in (0, 2):
        module(root, num_workers=workers).place_augmentation()
    assert seen == [0, 2 * 2 * 4]  # torch lets each have two batches ready


def test_what_is_asked_for_is_not_measured(dataset, measured):
    calls = measured(cpu=1, device=1)
    assert augment_on.choose("cpu", dataset, "", KEYS, GPU) == ("cpu", "")
    assert augment_on.choose("device", dataset, "", KEYS, GPU) == ("device", "")
    assert "mps" in augment_on.choose("device", dataset, "", KEYS, torch.device("mps"))[1]
    assert not calls


def test_step_of_others_is_named_where_the_device_was_asked_for(root, caplog):
    data = module(root, augment={**OWN, "jitter": v2.ColorJitter(0.5)}, augment_on="device")
    with caplog.at_level(logging.INFO):
        data.place_augmentation()
    assert "augmented on the cpu (jitter: only tlab's own steps" in caplog.text
    assert not data.train_dataloader().draws
    assert module(root, augment={}, augment_on="device").train_dataloader().draws is False


def test_phases_of_a_run_are_placed_each_and_kept_by_a_resumed_one(root, measured):
    phases = {"later": {"transforms": {"crop": RandomResizedCrop(SIZE)}, "mix": None}}
    calls = measured(cpu=100, device=200)

    def on_gpu(data):
        data.train_dataloader = partial(_as_if_on, GPU, data.loader("train", train=True))
        return data

    data = on_gpu(module(root, phases=phases))
    assert data.state_dict() == {}
    data.place_augmentation()
    data.augment_for("later")
    data.place_augmentation()
    assert data.train_dataloader().draws
    assert len(calls) == 2
    state = data.state_dict()
    assert state == {"augmented_on": {"": "device", "later": "device"}}
    (cache_dir() / "augment.json").unlink()
    measured(cpu=200, device=100)
    resumed = on_gpu(module(root, phases=phases))
    resumed.load_state_dict(state)
    resumed.place_augmentation()
    assert resumed.train_dataloader().draws
    assert len(calls) == 2


def _as_if_on(device, loader):
    loader.device = device
    return loader


def test_wrong_choice_is_named(root):
    with pytest.raises(UserError, match=r"data\.augment_on=gpu is not one of auto, cpu, device"):
        module(root, augment_on="gpu")
    with pytest.raises(UserError, match=r"data\.augment_on=gpu is not one of auto, cpu, device"):
        check(compose([f"data.root={root}", "data.augment_on=gpu"]))
