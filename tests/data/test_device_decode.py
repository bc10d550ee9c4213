"""JPEG files that are decoded where the images are made: the same images, and the CPU where a GPU cannot."""

import io
import logging

import numpy as np
import pytest
import torch
from pictures import jpeg, picture

from tlab.data import device_decode
from tlab.data.color import ColorJitter
from tlab.data.datamodule import ImageDataModule
from tlab.data.dataset import Batch, ImageDataset, Mixing
from tlab.data.decode import decode, whole_jpeg_size
from tlab.data.device_decode import decode_jpegs
from tlab.data.drawn import DrawnBatch
from tlab.data.index import Sample, folder_index
from tlab.data.loader import finished
from tlab.data.order import EpochSampler
from tlab.data.transforms import evaluation_transform
from tlab.data.warp import RandomCrop, RandomHorizontalFlip, RandomResizedCrop
from tlab.errors import UserError

SIZE = 24


@pytest.fixture
def samples(tmp_path) -> list[Sample]:
    """Plain JPEGs of two sizes, one turned by EXIF, one so large that it is decoded at half its size, and a PNG."""
    turned, large = picture(3, (60, 40)).getexif(), picture(4, (400, 300))
    turned[0x0112] = 6
    picture(3, (60, 40)).save(tmp_path / "turned.jpg", exif=turned)
    large.save(tmp_path / "large.jpg")
    picture(5, (50, 40)).save(tmp_path / "painted.png")
    (tmp_path / "a.jpg").write_bytes(jpeg(1, (70, 50)))
    (tmp_path / "b.jpg").write_bytes(jpeg(2, (40, 60)))
    return [Sample(str(file), number % 2) for number, file in enumerate(sorted(tmp_path.glob("*.*")))]


def dataset(samples, leaves_decoding=True, **options):
    augment = {"crop": RandomResizedCrop(SIZE, scale=(0.3, 1.0)), "flip": RandomHorizontalFlip()}
    options = {"augment": augment, "num_classes": 2, "seed": 1} | options
    data = ImageDataset(samples, finish=evaluation_transform(SIZE), image_size=SIZE, **options)
    data.leaves_decoding = leaves_decoding
    return data


def keys(samples, epoch=0):
    order = EpochSampler([sample.label for sample in samples], seed=1).keys(epoch)
    return [key._replace(drawn=True) for key in order]


@pytest.mark.parametrize(
    "augment",
    [
        {"crop": RandomResizedCrop(SIZE, scale=(0.2, 0.9)), "color": ColorJitter(0.3, 0.3, 0.3)},
        {"crop": RandomCrop(SIZE, padding=3, fill=128), "again": RandomResizedCrop(SIZE)},  # margins need pixels
        {"first": RandomCrop(32), "second": RandomResizedCrop(SIZE)},  # a cut of a cut
        {"flip": RandomHorizontalFlip(1.0)},  # and what evaluation does
    ],
    ids=lambda augment: " ".join(augment),
)
def test_images_are_those_of_decoded_files(samples, augment):
    for epoch in range(4):
        order = keys(samples, epoch)
        left = dataset(samples, augment=augment).__getitems__(order)
        here = dataset(samples, leaves_decoding=False, augment=augment).__getitems__(order)
        assert isinstance(left, DrawnBatch)
        assert not here.jpegs
        assert torch.equal(finished(left).image, finished(here).image)


def test_only_plain_files_of_full_size_are_left_undecoded(samples):
    batch = dataset(samples, mixing=Mixing(1.0)).__getitems__(keys(samples))
    assert sorted(len(content) for content in batch.jpegs) == sorted(len(jpeg(*of)) for of in PLAIN)
    assert [cut is not None for cut in batch.cuts].count(True) == 2
    assert isinstance(finished(batch), Batch)


PLAIN = [(1, (70, 50)), (2, (40, 60))]


def test_size_of_a_whole_jpeg():
    assert whole_jpeg_size(jpeg(1, (70, 50)), None) == (50, 70)
    assert whole_jpeg_size(jpeg(1, (70, 50)), 40) == (50, 70)
    assert whole_jpeg_size(jpeg(1, (70, 50)), 25) is None  # decoded at half its size
    assert whole_jpeg_size(jpeg(1, (401, 301)), 50) is None  # it cannot be, but is too large
    assert whole_jpeg_size(jpeg(1)[:-10], None) is None
    buffer = io.BytesIO()
    picture().convert("L").save(buffer, "JPEG")
    assert whole_jpeg_size(buffer.getvalue(), None) is None


def test_pixels_are_those_of_decode(samples):
    files = [sample.path for sample in samples if sample.path.name in ("a.jpg", "b.jpg")]
    contents = [np.frombuffer(file.read_bytes(), np.uint8) for file in files]
    for file, x in zip(files, decode_jpegs(contents, torch.device("cpu")), strict=True):
        assert torch.equal(x, decode(file))


class SideDevice:
    type = "cuda"


@pytest.fixture
def gpu(monkeypatch):
    """Let torchvision decode for a GPU as `answer` says; everything stays in memory."""
    calls: list[int] = []
    monkeypatch.setattr(device_decode, "_failed", False)

    def set_(answer):
        def decode_jpeg(files, mode, device):
            calls.append(len(files))
            return answer(files)

        monkeypatch.setattr(device_decode, "decode_jpeg", decode_jpeg)
        monkeypatch.setattr(torch.Tensor, "to", lambda x, *args, **kwargs: x)
        return calls

    return set_


def test_gpu_decodes_all_files_at_once(gpu):
    calls = gpu(lambda files: [torch.zeros(3, 4, 4, dtype=torch.uint8) for _ in files])
    contents = [np.frombuffer(jpeg(seed), np.uint8) for seed in range(3)]
    assert len(decode_jpegs(contents, SideDevice())) == 3
    assert calls == [3]


def test_gpu_that_cannot_decode_is_asked_once(gpu, caplog):
    def fail(files):
        raise RuntimeError("torchvision was built without nvJPEG\nsecond line")

    calls = gpu(fail)
    content = np.frombuffer(jpeg(1), np.uint8)
    with caplog.at_level(logging.WARNING):
        first, second = (decode_jpegs([content], SideDevice())[0] for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (3, 30, 40)
    assert calls == [1]
    assert len(caplog.records) == 1
    assert "(torchvision was built without nvJPEG), so the CPU does" in caplog.text


def test_damaged_file_is_a_mistake_in_words():
    with pytest.raises(UserError, match=r"data\.decode_on=cpu"):
        decode_jpegs([np.frombuffer(b"\xff\xd8\xff no image \xff\xd9", np.uint8)], torch.device("cpu"))


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, False),
        ({"augment_on": "device"}, False),
        ({"augment_on": "device", "decode_on": "device"}, True),
        ({"decode_on": "device"}, True),
        ({"augment_on": "cpu", "decode_on": "device"}, False),
    ],
)
def test_only_training_images_are_left_and_then_not_kept_decoded(make_folder, options, left):
    root = make_folder({"train/a": 4, "train/b": 4, "val/a": 2, "val/b": 2})
    augment = {"crop": RandomResizedCrop(SIZE)}
    data = ImageDataModule(
        lambda: folder_index(root), image_size=SIZE, num_workers=0, augment=augment, store="on", **options
    )
    data.setup()
    data.keep_decoded(9)
    train, val = data.train_dataloader().images, data.val_dataloader().images
    assert train.leaves_decoding == left
    assert (train.store is None) == left
    assert not val.leaves_decoding
    assert val.store is not None


def test_wrong_choice_is_named(make_folder):
    with pytest.raises(UserError, match=r"data\.decode_on=auto is not one of cpu, device"):
        ImageDataModule(lambda: None, image_size=SIZE, decode_on="auto")


def test_damaged_file_that_a_step_needs_is_named(samples):
    file = next(sample.path for sample in samples if sample.path.name == "a.jpg")
    content = file.read_bytes()
    file.write_bytes(content[:200] + content[-2:])  # its header and its end are whole
    data = dataset(samples, augment={"margin": RandomCrop(SIZE, padding=3, fill=128)})
    answer = data.__getitems__(keys(samples))
    assert isinstance(answer, UserError)
    assert "a.jpg can no longer be read" in str(answer)
