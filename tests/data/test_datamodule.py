import logging
import random
from functools import partial

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from pictures import jpeg
from PIL import Image
from torch.utils.data._utils.pin_memory import pin_memory
from torchvision.transforms import v2

from tlab.core.errors import UserError
from tlab.data.augment.mixup import Mixing
from tlab.data.batch import Batch
from tlab.data.datamodule import ImageDataModule
from tlab.data.decode import decode
from tlab.data.feature_batches import FeatureBatches
from tlab.data.loader import choose_workers
from tlab.data.sources.folder import folder_index

SIZE = 16


def module(root, **options):
    augment = {"crop": v2.RandomResizedCrop(SIZE), "flip": v2.RandomHorizontalFlip(), "jitter": v2.ColorJitter(0.5)}
    options = {"image_size": SIZE, "batch_size": 5, "num_workers": 0, "augment": augment, "seed": 3} | options
    data = ImageDataModule(partial(folder_index, root), **options)
    data.setup()
    return data


def epochs(data, count=2):
    loader = data.train_dataloader()
    batches = []
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)
        batches += [*loader]
    return batches


@pytest.fixture
def root(make_folder):
    return make_folder({"train/a": 9, "train/b": 7, "train/c": 4, "val/a": 3, "val/b": 3, "val/c": 2})


def same(some, others):
    return len(some) == len(others) and all(
        torch.equal(x, y) for a, b in zip(some, others, strict=True) for x, y in zip(a[:3], b[:3], strict=True)
    )


@pytest.mark.parametrize("options", [{}, {"mix": Mixing(0.4, 1.0), "balanced": True}])
def test_batches_are_the_same_for_any_number_of_workers(root, options):
    alone = epochs(module(root, **options))
    assert len(alone) == 8
    assert not same(alone[:4], alone[4:])
    assert same(epochs(module(root, num_workers=2, **options)), alone)
    assert same(list(module(root, num_workers=2).val_dataloader()), list(module(root).val_dataloader()))
    assert not same(epochs(module(root, seed=4, **options)), alone)


@pytest.mark.parametrize("workers", [0, 1])
def test_iterating_leaves_the_random_state_alone(root, workers):
    data = module(root, num_workers=workers, mix=Mixing(0.4))
    before, python_before = torch.default_generator.get_state(), random.getstate()
    epochs(data)
    list(data.val_dataloader())
    data.mean_std()
    assert torch.equal(torch.default_generator.get_state(), before)
    assert random.getstate() == python_before


def test_splits_classes_and_counts(root):
    data = module(root)
    assert (data.classes, data.num_classes) == (("a", "b", "c"), 3)
    assert data.class_counts().tolist() == [9, 7, 4]
    weights = data.class_weights()
    assert weights.dtype == torch.float32
    assert (weights * data.class_counts()).tolist() == pytest.approx([20 / 3] * 3)
    batches = list(data.val_dataloader())
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(8))
    assert torch.cat([batch.label for batch in batches]).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert data.loader("train").sampler is not data.loader("train", train=True).sampler
    assert torch.cat([batch.index for batch in data.loader("train")]).tolist() == list(range(20))
    with pytest.raises(UserError, match=r"split=test.*train, val"):
        data.test_dataloader()


def test_mixing_and_augmentation_are_for_training_only(root):
    plain, mixed = module(root, augment=None), module(root, mix=Mixing(1.0))
    assert next(iter(mixed.train_dataloader())).label.shape == (5, 3)
    assert same(list(plain.val_dataloader()), list(mixed.val_dataloader()))
    assert same(list(plain.loader("train")), list(mixed.loader("train")))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_phase_has_its_own_augmentation(root, workers):
    """Persistent workers too, and the draws of the usual one stay what they were."""
    grey = {"grey": partial(torch.full_like, fill_value=7)}
    phases = {"head": {"transforms": grey, "mix": None}}
    data, plain = module(root, phases=phases, num_workers=workers), module(root, num_workers=workers)
    loader = data.train_dataloader()
    data.prepare("head")
    assert all((batch.image == 7).all() for batch in loader)
    data.prepare("all")
    assert loader.images is data.training_images("another")  # so that its workers stay
    assert same(list(loader), list(plain.train_dataloader()))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [1, 3])
def test_a_loader_goes_on_inside_an_epoch(root, workers, taken):
    data, resumed = module(root, num_workers=workers), module(root, num_workers=workers)
    loader = data.train_dataloader()
    loader.sampler.set_epoch(2)
    batches = iter(loader)
    for _ in range(taken):
        next(batches)
    state = loader.state_dict()
    rest = list(batches)
    again = resumed.train_dataloader()
    again.load_state_dict(state)
    again.sampler.set_epoch(2)
    assert len(again) == 4  # as in a whole epoch
    assert same(list(again), rest)
    assert len(list(again)) == 4  # only the first time
    again.load_state_dict(state)
    again.sampler.set_epoch(3)
    assert len(list(again)) == 4  # nor in another epoch


def test_batches_are_counted_when_they_are_taken(root):
    loader = module(root).train_dataloader()
    for taken, _ in enumerate(loader, start=1):
        assert loader.state_dict() == {"epoch": 0, "batches": taken}


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_file_is_named_after_the_batches_before_it(root, workers):
    data = module(root, num_workers=workers, unreadable="error")
    loader = data.train_dataloader()
    data.index.splits["train"][loader.sampler.keys(0)[7].index].path.unlink()  # in the second batch
    batches = iter(loader)
    next(batches)
    with pytest.raises(UserError, match="no such file"):
        next(batches)
    assert loader.state_dict()["batches"] == 1
    assert not loader.has_workers


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_files_are_skipped_listed_and_said(odd_folder, workers, caplog):
    root, bad = odd_folder
    data = module(root, num_workers=workers)
    assert {data.index.relative(item.path) for item in data.unreadable} == bad.keys()
    kept = {data.index.relative(s.path) for samples in data.index.splits.values() for s in samples}
    assert not kept & bad.keys()
    assert "6 files unreadable" in caplog.text
    seen = [batch.index for batch in data.train_dataloader()]
    assert len(torch.cat(seen)) >= len(data.index.splits["train"]) - 1
    assert len(torch.cat([batch.index for batch in data.val_dataloader()])) == len(data.index.splits["val"])
    data.setup("fit")
    assert caplog.text.count("6 files unreadable") == 1


def test_unreadable_error_stops(odd_folder):
    with pytest.raises(
        UserError, match=r"6 files unreadable.*cats/empty\.jpg \(empty file\).*data\.unreadable=skip"
    ):
        module(odd_folder[0], unreadable="error")


def test_files_cut_short_are_read_where_asked_for(root, caplog):
    cut = root / "train" / "a" / "0.jpg"
    cut.write_bytes(jpeg(5, (200, 150))[:-60])
    assert "data.unreadable=read" not in caplog.text
    assert str(cut) not in {sample.file for sample in module(root).index.splits["train"]}
    assert "data.unreadable=read" in caplog.text
    data = module(root, unreadable="read")
    assert str(cut) in {sample.file for sample in data.index.splits["train"]}
    assert sum(len(batch.index) for batch in data.train_dataloader()) == 20
    with pytest.raises(UserError, match=r"train/a/0\.jpg \(truncated"):
        module(root, unreadable="error")


@pytest.mark.parametrize(("bits", "white"), [("auto", 4095), (16, 65535), (11, 2047)])
def test_black_and_white_are_those_of_the_training_images(root, bits, white):
    """A brighter image of another split neither changes them nor is left out."""
    for number, file in enumerate(sorted(root.rglob("*.jpg"))):
        x = np.random.default_rng(number).integers(0, 1800, (30, 40)).astype(np.uint16)
        Image.fromarray(x if "train" in file.parts else x * 30).save(file, "PNG")
    data = module(root, bits=bits, augment=None)
    assert data.decode_options.levels.integers == (0, white)
    assert ("use only" in str(data.issues)) == (bits == "auto")
    assert ("far beyond" in str(data.issues)) == (white < 65535)
    for split in ("train", "val"):
        sample = data.index.splits[split][0]
        expected = np.asarray(Image.open(sample.file)).clip(0, white) // ((white + 1) // 256)
        assert (decode(sample.path, options=data.decode_options)[0].numpy() == expected).all()
        images = data.images([sample])
        assert torch.equal(images.original(0), images.finish(decode(sample.path, options=data.decode_options)))


def test_class_without_readable_images_is_named(root):
    for i in range(2):
        (root / "val" / "c" / f"{i}.jpg").write_bytes(b"")
    assert "No readable image is left in val for 'c'." in module(root).issues
    for file in (root / "val").glob("*/*.jpg"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"data\.exclude=\[val\]"):
        module(root)


@pytest.mark.parametrize("workers", [0, 2])
def test_file_that_vanishes_during_training_is_named_in_one_sentence(root, workers):
    data = module(root, num_workers=workers, unreadable="error")
    gone = data.index.splits["train"][4].path
    gone.write_bytes(jpeg()[:100])
    with pytest.raises(UserError) as caught:
        list(data.train_dataloader())
    assert str(gone) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_is_written_beside_the_images(root, own_cache):
    before = sorted(root.rglob("*"))
    module(root).mean_std()
    assert sorted(root.rglob("*")) == before
    assert [path.parent.name for path in own_cache.rglob("*.json")] == ["check"]


def test_mean_and_standard_deviation_of_the_data(root):
    data = module(root)
    x = torch.cat([batch.image for batch in data.loader("train")]).double() / 255
    mean, std = data.mean_std()
    assert mean == pytest.approx(x.mean((0, 2, 3)).tolist())
    assert std == pytest.approx(x.std((0, 2, 3), correction=0).tolist())


def test_last_batch_of_one_is_left_out(make_folder):
    root = make_folder({"train/a": 3, "train/b": 3, "val/a": 3, "val/b": 3})
    data = module(root)
    assert [len(batch.index) for batch in data.train_dataloader()] == [5]
    assert [len(batch.index) for batch in data.val_dataloader()] == [5, 1]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"resize": "stretch"}, "data.resize=stretch"),
        ({"unreadable": "ignore"}, "data.unreadable=ignore"),
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"image_size": 1}, "data.image_size=1"),
        ({"num_workers": -1}, "data.num_workers=-1"),
        ({"crop_fraction": 0.0}, "data.crop_fraction=0.0"),
    ],
)
def test_wrong_values_are_named(root, options, key):
    with pytest.raises(UserError, match=key):
        module(root, **options)


def test_workers_are_chosen_from_cores_and_images():
    assert choose_workers(100, 64) == 0
    assert choose_workers(100_000, 1) == 0
    assert choose_workers(100_000, 2) == 1
    assert choose_workers(100_000, 8) == 7
    assert choose_workers(100_000, 64) == 8
    assert choose_workers(100_000, 64, on_cpu=True) == 0


class Recorder(L.LightningModule):
    """A network of one number that writes down what it sees."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append(batch)
        return self.weight * batch.image.float().mean()

    def validation_step(self, batch, _):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(folder, epochs=2):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip


@pytest.mark.parametrize("workers", [0, 1])
def test_lightning_sets_the_epoch(root, workers, tmp_path):
    net = Recorder()
    trainer(tmp_path).fit(net, datamodule=module(root, num_workers=workers))
    assert same(net.seen, epochs(module(root)))


def test_a_checkpoint_that_says_where_images_were_augmented_still_loads(root, tmp_path):
    """Versions that could augment on a GPU wrote it there."""
    first, file = trainer(tmp_path, epochs=1), tmp_path / "last.ckpt"
    first.fit(Recorder(), datamodule=module(root))
    first.save_checkpoint(file)
    checkpoint = torch.load(file, weights_only=True)
    assert "ImageDataModule" not in checkpoint
    torch.save(checkpoint | {"ImageDataModule": {"augmented_on": {"": "device", "all": "cpu"}}}, file)
    net = Recorder()
    trainer(tmp_path).fit(net, datamodule=module(root), ckpt_path=file, weights_only=True)
    assert same(net.seen, epochs(module(root))[4:])


def test_lightning_moves_a_batch_without_waiting(root, monkeypatch):
    moved = []
    monkeypatch.setattr(torch.Tensor, "to", lambda x, device, **how: moved.append((device, how)) or x + 1)
    batch = Batch(torch.zeros(2, 8), torch.tensor([0, 1]), torch.tensor([5, 6]), "pool")
    there = module(root).transfer_batch_to_device(batch, torch.device("cuda"), 0)
    assert moved == [(torch.device("cuda"), {"non_blocking": True})] * 3
    assert type(there) is Batch
    assert there.after == "pool"
    assert same([there], [Batch(*(x + 1 for x in batch[:3]))])


@pytest.fixture
def pinned(monkeypatch):
    """Let memory be pinned where there is no GPU; all tensors that are."""
    found = []

    def pin(x, *_):
        found.append(x.clone())
        return found[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    return found


@pytest.mark.parametrize("pooled", [False, True])
def test_features_are_pinned_as_images_are(root, pooled, pinned):
    loader = module(root).train_dataloader()
    shape = (20, 8) if pooled else (20, 2, 2, 8)
    rows = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    labels = [sample.label for sample in loader.images.samples]
    loader.use(loader.images, FeatureBatches([rows], torch.float32, not pooled, after="pool", labels=labels))
    plain = list(loader)
    assert not pinned
    loader.pin_memory = True
    batches = list(loader)
    assert same(batches, plain)
    assert [id(x) for batch in batches for x in batch[:3]] == [*map(id, pinned)]
    assert all(type(batch) is Batch and batch.after == "pool" for batch in batches)


def test_a_batch_outlasts_pinning_and_so_does_a_mistake(pinned):
    batch = Batch(torch.zeros(2, 8), torch.tensor([0, 1]), torch.tensor([5, 6]), "layer1")
    there = pin_memory(batch)  # as torch's loader does
    assert type(there) is Batch
    assert there.after == "layer1"
    assert [*map(id, there[:3])] == [*map(id, pinned)]
    mistake = UserError("gone")
    assert pin_memory(mistake) is mistake
