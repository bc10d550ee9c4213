"""Images that turn out to be unreadable after the check of the files, or that the check has passed over."""

import numpy as np
import pytest
import torch

from tlab.core.errors import UserError
from tlab.data.augment.geometry import RandomHorizontalFlip
from tlab.data.datamodule import ImageDataModule
from tlab.data.sampler import SampleKey
from tlab.data.skipping import replaced_rows
from tlab.data.sources.folder import folder_index
from tlab.data.sources.samples import Sample, Samples

SIZE = 16


@pytest.fixture
def root(make_folder):
    return make_folder({"train/a": 5, "train/b": 5, "val/a": 4, "val/b": 4})


def broken_after_the_check(root, *broken: tuple[str, int], **options) -> ImageDataModule:
    data = ImageDataModule(lambda: folder_index(root), image_size=SIZE, batch_size=3, **options)
    data.setup()
    for split, index in broken:
        data.index.splits[split][index].path.write_bytes(b"no image")
    return data


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_leaves_them_out_and_lists_them(root, workers):
    data = broken_after_the_check(root, ("val", 0), ("val", 1), ("val", 2), ("val", 6), num_workers=workers)
    batches = list(data.val_dataloader())  # the first of three would be empty
    assert [batch.index.tolist() for batch in batches] == [[3, 4, 5], [7]]
    assert [batch.label.tolist() for batch in batches] == [[0, 1, 1], [1]]
    assert {name.rpartition("/")[2] for name in data.skipped} == {
        data.index.splits["val"][number].path.name for number in (0, 1, 2, 6)
    }


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("store", ["off", "on"])
def test_training_takes_the_next_of_the_class(root, workers, store):
    data = broken_after_the_check(root, ("train", 4), ("train", 0), num_workers=workers, store=store)
    loader = data.train_dataloader()
    loader.images.keep_decoded(store, 100)
    seen = {
        index: (label, image)
        for batch in loader
        for index, label, image in zip(batch.index.tolist(), batch.label.tolist(), batch.image, strict=True)
    }
    assert sorted(seen) == [*range(10)][: len(seen)] or len(seen) == 9  # a last batch of one image is dropped
    assert {label for index, (label, _) in seen.items() if index < 5} == {0}
    whole = data.images(data.index.splits["train"])
    second = whole.batch([SampleKey(0, 1)]).image[0]
    for index in {0, 4} & seen.keys():
        assert torch.equal(seen[index][1], second)  # 4 -> 0, which is broken too -> 1
    assert len(data.skipped) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_every_one_of_a_class_or_of_a_split_ends_in_one_sentence(root, workers):
    broken = [("train", number) for number in range(5)] + [("val", number) for number in range(8)]
    data = broken_after_the_check(root, *broken, num_workers=workers)
    with pytest.raises(UserError, match=r"data\.root"):
        list(data.train_dataloader())
    with pytest.raises(UserError, match="no image"):
        list(data.val_dataloader())


def test_data_unreadable_error_keeps_its_word(root):
    data = broken_after_the_check(root, ("val", 0), num_workers=0, unreadable="error")
    with pytest.raises(UserError, match="can no longer be read"):
        list(data.val_dataloader())


def test_augmented_images_are_replaced_under_their_own_address(root):
    augment = {"flip": RandomHorizontalFlip()}
    data = broken_after_the_check(root, ("train", 2), num_workers=0, augment=augment)
    images = data.training_images()
    keys = [SampleKey(epoch, 2) for epoch in range(8)]
    instead = [SampleKey(epoch, 3) for epoch in range(8)]
    assert torch.equal(images.pixels(keys), images.pixels(instead))


def test_rows_without_features_are_those_of_the_next_of_the_class():
    samples, there = Samples(Sample("x", y) for y in (0, 0, 1, 0, 1)), np.array([True, False, True, True, False])
    assert replaced_rows(np.array([5, 6, 7, 8, 9]), samples, there).tolist() == [5, 8, 7, 8, 7]
    with pytest.raises(UserError):
        replaced_rows(np.arange(2), Samples([Sample("a", 0), Sample("b", 1)]), np.array([True, False]))
