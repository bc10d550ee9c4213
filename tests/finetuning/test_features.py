"""Frozen stages run once: the same result as running them in every epoch, for a fraction of the images."""

import csv
import errno
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tlab.data.augment.mixup import Mixing
from tlab.data.feature_batches import FeatureBatches
from tlab.data.image_batches import ImageBatches
from tlab.data.sampler import SampleKey, addressed_seed
from tlab.finetuning.features import rows
from tlab.finetuning.features.rows import fill, row_dtype, to_rows
from tlab.models.module import ImageClassifier
from tlab.train import train

TRAIN, VAL, TEST = 36, 18, 18  # images of the tiny folder
KNOWN = TRAIN  # without augmentation, for what a checkpoint tells of the images that it knows
PLANS = {
    "head": ["finetune=head", "finetune.head_epochs=null"],
    "last": ["finetune=last", "finetune.head_epochs=2"],
    "lp_ft": ["finetune=lp_ft", "finetune.head_epochs=2"],
    "gradual": ["finetune=gradual", "finetune.head_epochs=2", "backbone.upto=layer2", "trainer.max_epochs=8"],
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch):
    """Addresses of the images that were read."""
    seen = []
    image = ImageBatches.image

    def counted(self, key):
        seen.append(key)
        return image(self, key)

    monkeypatch.setattr(ImageBatches, "image", counted)
    return seen


def history(run: Path) -> list[dict[str, float]]:
    with (run / "history.csv").open(encoding="utf-8") as file:
        rows = [dict(row) for row in csv.DictReader(file)]
    return [
        {k: float(v) for k, v in row.items() if k not in ("phase", "seconds", "images_per_second")} for row in rows
    ]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("aug", [pytest.param("none", marks=pytest.mark.slow), "light"])
def test_a_run_gives_the_same_with_a_store_and_without(compose_run, tmp_path, reads, plan, aug):
    """With as many views as epochs an augmented run sees what it would see anyway; dropout draws the same."""
    options = ["trainer.max_epochs=4", *PLANS[plan], f"aug={aug}", "features.views=99", "head.dropout=0.5"]
    counts = {}
    for cache in ("auto", "off"):
        reads.clear()
        train(compose_run(*options, f"features.cache={cache}", run_dir=tmp_path / cache))
        counts[cache] = len(reads)
    assert counts["auto"] < counts["off"]
    for with_store, without in zip(history(tmp_path / "auto"), history(tmp_path / "off"), strict=True):
        assert with_store == pytest.approx(without, abs=1e-5)
    assert_close(weights(tmp_path / "auto"), weights(tmp_path / "off"), atol=1e-5, rtol=0)


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """Weights that no seed changes."""
    from torchvision.models import resnet18

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
        torch.save(resnet18(num_classes=3).state_dict(), file)
    return file


@pytest.fixture
def head_run(compose_run, tmp_path, reads, pretrained):
    """Train a head for three epochs and return how many images were read."""
    number = iter(range(100))

    def run(*overrides: str) -> int:
        reads.clear()
        plan = ("finetune=head", "finetune.head_epochs=null", "trainer.max_epochs=3", "aug=none")
        stated = "finetune.batchnorm=pretrained"  # to choose it reads images too
        options = (*plan, stated, f"backbone.weights={pretrained}", "backbone.upto=layer2")
        train(compose_run(*options, *overrides, run_dir=tmp_path / f"run{next(number)}"))
        return len(reads)

    return run


def test_every_image_is_read_once(head_run):
    assert head_run() == TRAIN + VAL + TEST


def test_an_augmented_image_is_read_once_for_each_view(head_run):
    assert head_run("aug=light", "features.views=2") == 2 * TRAIN + VAL + TEST + KNOWN


def test_there_are_never_more_views_than_epochs(head_run):
    assert head_run("aug=light", "features.views=8") == 3 * TRAIN + VAL + TEST + KNOWN


@pytest.mark.parametrize(
    "other",
    [
        "optimizer.lr=0.5",
        "head.dropout=0.1",
        "scheduler=step",
        "seed=7",
        "data.batch_size=7",
        "aug.mix.mixup_alpha=1",
    ],
)
def test_runs_share_what_does_not_depend_on_their_difference(head_run, other):
    head_run()
    assert head_run(other) == 0


def test_runs_of_other_seeds_share_the_images_of_a_folder_that_is_split_by_the_seed(head_run, photos):
    one = f"data.root={photos}/train"
    assert head_run(one, "seed=1") == TRAIN
    assert head_run(one, "seed=2") == 0


@pytest.mark.parametrize(
    ("other", "read"),
    [
        ("data.image_size=40", TRAIN + VAL + TEST),
        ("data.crop_fraction=1.0", TRAIN + VAL + TEST),
        ("data.normalize=dataset", 2 * TRAIN + VAL + TEST),  # once more to find mean and standard deviation
        ("trainer.precision=bf16-mixed", TRAIN + VAL + TEST),
        ("head.pooling=max", TRAIN + VAL + TEST),
        ("backbone.upto=layer1", TRAIN + VAL + TEST),
        ("aug=light", 3 * TRAIN + VAL + KNOWN),  # the tested images are those of the run before
    ],
)
def test_what_features_depend_on_makes_new_ones(head_run, other, read):
    head_run()
    assert head_run(other) == read


def test_other_weights_make_new_ones(head_run, compose_run, tmp_path):
    from torchvision.models import resnet18

    head_run()
    torch.manual_seed(5)
    torch.save(resnet18(num_classes=3).state_dict(), tmp_path / "other.pth")
    assert head_run(f"backbone.weights={tmp_path / 'other.pth'}") == TRAIN + VAL + TEST


def test_another_seed_has_other_views(head_run):
    head_run("aug=light")
    assert head_run("aug=light") == 0
    assert head_run("aug=light", "seed=3") == 3 * TRAIN  # evaluation is the same


def test_a_changed_file_makes_new_ones(head_run, photos, tmp_path):
    copy = shutil.copytree(photos, tmp_path / "photos")
    head_run(f"data.root={copy}")
    file = next((copy / "val" / "red").iterdir())
    shutil.copy(next((copy / "val" / "blue").iterdir()), file)
    assert head_run(f"data.root={copy}") == TRAIN + VAL  # their rows lie in one file, those of test in another


def test_a_deeper_prefix_starts_from_a_shallower_one(head_run):
    head_run("finetune=last", "finetune.head_epochs=0")
    assert head_run() == 0


def test_what_does_not_fit_streams_with_one_sentence(head_run, caplog):
    assert head_run("features.max_gb=0") == 3 * (TRAIN + VAL) + TEST + KNOWN + VAL
    (first, *_) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "features.max_gb=0 allows" in first
    assert "every epoch runs the frozen stages" in first


def test_old_stores_make_room(head_run, cache):
    head_run()
    size = sum(file.stat().st_size for file in (cache / "features").glob("*.npy"))
    head_run("head.pooling=max", f"features.max_gb={1.2 * size / 1e9}")
    assert head_run("head.pooling=max") == 0
    assert head_run() > 0


def test_features_of_what_a_checkpoint_knows_make_room_too(head_run, cache, photos):
    options = (f"data.root={photos}/train", "aug=light", "features.views=1", "backbone.upto=null")

    def size() -> int:
        return sum(file.stat().st_size for file in (cache / "features").glob("*.npy"))

    head_run(*options)
    most = size() - 5_000  # less than two rows of it
    shutil.rmtree(cache)
    head_run(*options, f"features.max_gb={most / 1e9}")
    assert size() <= most


def test_a_cache_that_cannot_be_written_streams(head_run, cache, caplog):
    cache.mkdir()
    (cache / "features").write_text("in the way")
    assert head_run() == 3 * (TRAIN + VAL) + TEST + KNOWN + VAL
    assert any("cannot be written" in record.message for record in caplog.records)


def test_a_disk_that_is_full_in_the_middle_is_one_sentence_and_the_run_goes_on(
    head_run, cache, caplog, monkeypatch, tmp_path
):
    def note(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rows, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(rows, "write_text", note)
    assert head_run("features.cache=off") == 3 * (TRAIN + VAL) + TEST + KNOWN + VAL
    assert head_run() > 3 * (TRAIN + VAL) + TEST  # and those before the disk was full
    assert history(tmp_path / "run0") == history(tmp_path / "run1")
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [message.split(" cannot")[0] for message in told] == ["features behind pool"] * 2  # training, testing
    assert f"in {cache / 'features'} (No space left on device), so" in told[0]
    assert "TLAB_CACHE" in told[0]
    assert all(file.suffix == ".lock" for file in (cache / "features").iterdir())


@pytest.fixture
def threads(monkeypatch):
    """How many threads torch had in each step; it has two outside."""
    seen, step, before = [], ImageClassifier.training_step, torch.get_num_threads()

    def noted(self, batch, batch_idx):
        seen.append((self.current_epoch, torch.get_num_threads()))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ImageClassifier, "training_step", noted)
    torch.set_num_threads(2)
    yield seen
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {(0, 1), (1, 1), (2, 2)}),
        (["features.cache=off"], {(0, 2), (1, 2), (2, 2)}),
        (["finetune.phases.head.train=[layer1,head]", "finetune.head_first=false"], {(0, 2), (1, 2), (2, 2)}),
    ],
)
def test_a_small_head_alone_trains_on_one_core(compose_run, tmp_path, threads, options, expected):
    plan = ["finetune=lp_ft", "finetune.head_epochs=2", "trainer.max_epochs=3", "aug=none"]
    train(compose_run(*plan, *options, run_dir=tmp_path / "run"))
    assert set(threads) == expected
    assert torch.get_num_threads() == 2


def test_a_large_head_trains_on_all_cores(head_run, threads, monkeypatch):
    monkeypatch.setattr("tlab.finetuning.backbone_finetuning.ONE_CORE", 1000)
    head_run()
    assert {number for _, number in threads} == {2}


def test_a_run_that_fails_gives_the_cores_back(head_run, threads, monkeypatch):
    monkeypatch.setattr(ImageClassifier, "on_train_batch_end", lambda self, outputs, batch, batch_idx: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        head_run()
    assert threads == [(0, 1)]
    assert torch.get_num_threads() == 2


def test_cutmix_reads_images(head_run):
    assert head_run("aug.mix.cutmix_alpha=1.0", "features.views=1") >= 3 * TRAIN + VAL + TEST


def test_a_trial_of_a_few_batches_computes_no_store(head_run, cache):
    head_run("trainer.limit_train_batches=1", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1")
    assert not list(cache.glob("features/*.npy"))


VIEWS = [np.arange(8, dtype=np.float32).reshape(4, 2) + 100 * view for view in range(2)]


def test_epochs_go_through_the_views_in_turn():
    stored = FeatureBatches(VIEWS, torch.float32, False, after="pool", start=3, labels=[0, 1, 0, 1])
    keys = [SampleKey(3, 0), SampleKey(4, 1), SampleKey(5, 2), SampleKey(3, 3, repeat=1)]
    batch = stored.batch(keys)
    assert batch.image.tolist() == [[0, 1], [102, 103], [4, 5], [106, 107]]
    assert (batch.label.tolist(), batch.index.tolist(), batch.after) == ([0, 1, 0, 1], [0, 1, 2, 3], "pool")


def test_rows_may_lie_in_another_order():
    stored = FeatureBatches(VIEWS[:1], torch.float32, False, after="pool", rows=[3, 1], labels=[0, 1])
    assert stored.batch([SampleKey(9, 0), SampleKey(9, 1)]).image.tolist() == [[6, 7], [2, 3]]


def test_mixup_blends_rows_and_labels_with_the_shares_of_images():
    mixing = Mixing(mixup_alpha=1.0)
    stored = FeatureBatches(
        VIEWS, torch.float32, False, after="pool", labels=[0, 1, 2, 1], mixing=mixing, num_classes=3, seed=4
    )
    (row,), (label,), _, _ = stored.batch([SampleKey(0, 1, partner=2)])
    white, black = torch.full((3, 2, 2), 255, dtype=torch.uint8), torch.zeros(3, 2, 2, dtype=torch.uint8)
    share = mixing.mix(white, black, addressed_seed(4, "mix", 0, 1, 0))[1]
    assert_close(row, share * torch.tensor([2.0, 3.0]) + (1 - share) * torch.tensor([4.0, 5.0]))
    assert_close(label, torch.tensor([0.0, share, 1 - share]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels_last", [True, False])
def test_rows_come_back_as_they_were(tmp_path, dtype, channels_last):
    maps = torch.randn(5, 3, 2, 4).to(dtype)
    maps = maps.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    fill(tmp_path / "a.npy", 5, lambda first: [to_rows(maps[:2], channels_last), to_rows(maps[2:], channels_last)])
    array = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert row_dtype(array) == dtype
    back = FeatureBatches([array], dtype, channels_last, after="layer1").read([(0, row) for row in range(5)])
    assert back.equal(maps)
    assert back.stride() == maps.stride()


def test_a_killed_writer_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "SAVE_EVERY", 0.0)
    table = np.arange(12.0).reshape(6, 2)
    asked = []

    def blocks(first, end=6):
        asked.append(first)
        for start in range(first, end, 2):
            yield table[start : start + 2]
        if end < 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "a.npy", 6, lambda first: blocks(first, end=4))
    assert not (tmp_path / "a.npy").exists()
    fill(tmp_path / "a.npy", 6, blocks)
    assert asked == [0, 4]
    assert (np.load(tmp_path / "a.npy") == table).all()
    assert [file.name for file in tmp_path.iterdir()] == ["a.npy"]


@pytest.mark.skipif(sys.platform == "win32", reason="files have no limit there")
def test_a_write_that_fails_is_an_error_and_leaves_nothing(tmp_path):
    """Through a memory map it would end the process."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def blocks(first):
        yield np.ones((10, 1000))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        yield np.ones((10, 1000))

    try:
        with pytest.raises(OSError, match="File too large"):
            fill(tmp_path / "a.npy", 20, blocks)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_without_locks_two_processes_do_not_write_one_file(tmp_path):
    path, ended = tmp_path / "a.npy", []

    def of_one(first):
        yield np.zeros((2, 3))
        if not ended:  # the other process begins and ends meanwhile
            ended.append(fill(path, 4, lambda first: [np.ones((4, 3))], alone=False))
        yield np.zeros((2, 3))

    fill(path, 4, of_one, alone=False)
    assert np.load(path).sum() == 0
    assert [file.name for file in tmp_path.iterdir()] == ["a.npy"]
