"""A store gives the pixels of the plain path, is made once, and gives way where it does not pay or fit."""

import errno
import gc
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
from pictures import jpeg, picture

from tlab.core.errors import UserError
from tlab.data import image_cache
from tlab.data.augment.color import ColorJitter
from tlab.data.augment.evaluation import evaluation_transform
from tlab.data.augment.geometry import RandomResizedCrop
from tlab.data.image_batches import ImageBatches
from tlab.data.sampler import SampleKey
from tlab.data.sources.folder import folder_index

SIZE = 16


@pytest.fixture
def samples(make_folder):
    root = make_folder({"a": 20, "b": 19})
    picture(1, (301, 205)).save(root / "a" / "big.jpg")
    picture(2, (400, 240)).save(root / "b" / "scaled.jpg")
    picture(3).convert("RGBA").save(root / "b" / "alpha.png")
    return folder_index(root).splits["train"]


def dataset(samples, augment=None, **options):
    return ImageBatches(samples, finish=evaluation_transform(SIZE), image_size=SIZE, augment=augment, **options)


AUGMENT = {"crop": RandomResizedCrop(SIZE), "color": ColorJitter(0.3)}


@pytest.mark.parametrize("augment", [None, AUGMENT])
def test_same_pixels_with_and_without(samples, augment):
    plain, stored = (dataset(samples, augment) for _ in range(2))
    stored.keep_decoded("on", 100)
    assert len(stored.store) == len(samples)
    for index in range(len(samples)):
        assert torch.equal(plain.image(SampleKey(1, index)), stored.image(SampleKey(1, index)))


def test_a_store_that_nobody_has_any_more_closes_its_file(samples):
    data = dataset(samples)
    data.keep_decoded("on", 100)
    data.store.itself = data.store  # as in a trainer, which is let go as a circle
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        del data
        gc.collect()
    assert [str(warning.message) for warning in said if warning.category is ResourceWarning] == []


def test_made_once_and_shared(samples, monkeypatch, own_cache):
    first = dataset(samples)
    first.keep_decoded("on", 100)
    other = dataset(samples)
    monkeypatch.setattr(other, "original", None)  # nothing is decoded
    other.keep_decoded("auto", 1)
    assert torch.equal(other.image(SampleKey(0, 3)), first.image(SampleKey(0, 3)))
    entries = [path for path in (own_cache / "images").iterdir() if not path.name.startswith(".")]
    assert len(entries) == 1


def test_a_changed_file_or_look_is_another_store(samples, monkeypatch):
    paths = [sample.file for sample in samples]
    keys = {image_cache._key(paths, "a"), image_cache._key(paths, "b"), image_cache._key(paths[1:], "a")}
    samples[0].path.write_bytes(jpeg(99))
    keys.add(image_cache._key(paths, "a"))
    os.utime(paths[1], ns=(1, 1))
    keys.add(image_cache._key(paths, "a"))
    monkeypatch.setattr(image_cache, "digest_of_decoding", lambda: "other code")
    keys.add(image_cache._key(paths, "a"))
    assert len(keys) == 6


def test_the_digest_is_of_all_code_that_decodes():
    """Every module of tlab.data that the decoder imports, and those that these import."""
    folder = Path(image_cache.__file__).parent
    for module in image_cache.DECODING[: image_cache.DECODING.index("image_batches")]:
        code = (folder / f"{module}.py").read_text(encoding="utf-8")
        assert set(re.findall(r"^from tlab\.data\.(\w+) import", code, re.M)) <= set(image_cache.DECODING)


@pytest.mark.parametrize(
    ("mode", "epochs", "seconds", "size", "word"),
    [
        ("off", None, 9.0, 1, None),
        ("auto", 3, 9.0, 1, "3 epochs read them"),
        ("auto", 20, 0.01, 1, "decoding them all takes"),
        ("auto", 20, 9.0, 10**15, "free memory"),
        ("on", 20, 9.0, 10**15, "free disk"),
        ("auto", 20, 9.0, 1, ""),
        ("on", 1, 0.0, 1, ""),
    ],
)
def test_where_it_pays_and_fits(samples, mode, epochs, seconds, size, word, monkeypatch, caplog):
    monkeypatch.setattr(image_cache, "_sample", lambda *_: (seconds, size))
    data = dataset(samples)
    with caplog.at_level(logging.DEBUG, logger="tlab"):
        data.keep_decoded(mode, epochs)
    assert (data.store is not None) == (word == "")
    assert [word in record.message for record in caplog.records] == ([True] if word else [])


def test_the_oldest_store_makes_room(samples, monkeypatch, own_cache):
    old = dataset(samples)
    old.keep_decoded("on", 100)
    before = old.image(SampleKey(0, 0))
    os.utime(old.store.folder, (1, 1))
    used = image_cache.size_of(old.store.folder)
    monkeypatch.setattr(image_cache, "free_bytes", lambda _: 3 * used)
    new = dataset(samples, AUGMENT)
    monkeypatch.setattr(image_cache, "_sample", lambda *_: (9.0, used // 2))
    new.keep_decoded("on", 100)
    assert new.store.folder.exists()
    assert not old.store.folder.exists()
    assert torch.equal(old.image(SampleKey(0, 0)), before)  # an open store goes on


def test_a_failing_disk_is_only_a_warning(samples, own_cache, caplog):
    own_cache.write_text("a file in the way")
    data = dataset(samples)
    data.keep_decoded("on", 100)
    assert data.store is None
    assert "cannot be kept" in caplog.text
    assert data.image(SampleKey(0, 0)).shape == (3, SIZE, SIZE)


def test_a_disk_that_is_full_in_the_middle_keeps_nothing(samples, own_cache, caplog, monkeypatch):
    def sync(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", sync)
    data = dataset(samples)
    data.keep_decoded("on", 100)
    assert data.store is None
    assert [path.suffix for path in (own_cache / "images").iterdir()] == [".lock"]
    (told,) = caplog.messages
    assert "(No space left on device), so they are decoded anew in every epoch" in told
    assert "TLAB_CACHE, or give data.store=off." in told


def test_a_vanished_file_is_named_and_leaves_nothing_behind(samples, own_cache, monkeypatch):
    monkeypatch.setattr(image_cache, "_key", lambda *_: "key")
    samples[-1].path.unlink()
    with pytest.raises(UserError, match="no such file"):
        dataset(samples).keep_decoded("on", 100)
    assert [path.name for path in (own_cache / "images").iterdir()] == [".key.lock"]


def test_threads_pickles_and_other_processes_read_alike(samples, tmp_path):
    data = dataset(samples, AUGMENT)
    data.keep_decoded("on", 100)
    expected = [data.store.read(index) for index in range(len(samples))]
    copy = pickle.loads(pickle.dumps(data.store))
    wrong = []

    def look():
        wrong.extend(i for i in range(len(samples)) if not torch.equal(copy.read(i), expected[i]))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    torch.save(expected[5].clone(), tmp_path / "x.pt")
    code = (
        "import sys, torch; from pathlib import Path; from tlab.data.image_cache import ImageStore\n"
        "assert torch.equal(ImageStore(Path(sys.argv[1])).read(5), torch.load(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, str(data.store.folder), str(tmp_path / "x.pt")], check=True)
