"""What is remembered of folders is what is in them."""

import os
from pathlib import Path

import pytest
from pictures import jpeg

from tlab.data import scan
from tlab.data.index import folder_index


@pytest.fixture
def root(make_folder, monkeypatch):
    monkeypatch.setattr(scan, "REMEMBERED", 1)
    root = make_folder({"a": 4, "b/deep": 4, "c": 3})
    settle(root)
    return root


def settle(root):
    """As if the last change had been a while ago."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        stat = folder.stat()
        os.utime(folder, ns=(stat.st_atime_ns, stat.st_mtime_ns - 10 * scan.SETTLED))


def names(root):
    index = folder_index(root)
    return sorted(index.relative(sample.path) for samples in index.splits.values() for sample in samples)


def on_disk(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.jpg"))


@pytest.fixture
def read(monkeypatch):
    """The folders that are really read."""
    seen = []
    true = scan._read_folder
    monkeypatch.setattr(scan, "_read_folder", lambda folder: seen.append(Path(folder).name) or true(folder))
    return seen


def test_unchanged_folders_are_not_read_again(root, read):
    first = folder_index(root)
    assert set(read) == {"a", "b", "c", "deep", "images"}
    read.clear()
    assert folder_index(root) == first
    assert read == []


def test_only_a_changed_folder_is_read_again(root, read):
    names(root)
    read.clear()
    (root / "b/deep/new.jpg").write_bytes(jpeg(9))
    assert names(root) == on_disk(root)
    assert read == ["deep"]


@pytest.mark.parametrize("change", ["add", "remove", "rename", "new folder", "move folder", "swap folders"])
def test_every_change_of_names_is_seen(root, change):
    names(root)
    if change == "add":
        (root / "a/new.jpg").write_bytes(jpeg(9))
    elif change == "remove":
        (root / "b/deep/0.jpg").unlink()
    elif change == "rename":
        (root / "c/0.jpg").rename(root / "c/other.jpg")
    elif change == "new folder":
        (root / "a/more").mkdir()
        (root / "a/more/x.jpg").write_bytes(jpeg(9))
    elif change == "move folder":
        (root / "b/deep").rename(root / "a/deep")
        (root / "b/1.jpg").write_bytes(jpeg(8))
        (root / "b/2.jpg").write_bytes(jpeg(9))
    else:
        (root / "a").rename(root / "x")
        (root / "c").rename(root / "a")
        (root / "x").rename(root / "c")
        settle(root)
    assert names(root) == on_disk(root)
    assert names(root) == on_disk(root)


def test_a_folder_that_changed_just_now_is_not_trusted(root):
    names(root)
    (root / "a/new.jpg").write_bytes(jpeg(9))
    stat = (root / "a").stat()
    names(root)
    (root / "a/newer.jpg").write_bytes(jpeg(10))
    os.utime(root / "a", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the same tick of a coarse clock
    assert names(root) == on_disk(root)


@pytest.mark.parametrize("content", ["", "[]", '{"version": 1}', '{"version": "x", "folders": 3}'])
def test_a_damaged_cache_is_harmless(root, own_cache, content):
    names(root)
    (cached,) = (own_cache / "index").iterdir()
    cached.write_text(content)
    assert names(root) == on_disk(root)


def test_patterns_are_not_part_of_what_is_remembered(root):
    everything = names(root)
    index = folder_index(root, exclude=["a/0.jpg"])
    assert len([s for samples in index.splits.values() for s in samples]) == len(everything) - 1
    assert names(root) == everything


def test_few_files_are_not_remembered(make_folder, own_cache):
    names(make_folder({"a": 4, "b": 4}))
    assert not (own_cache / "index").exists()
