import os
from pathlib import Path

import pytest
from pictures import SHARED, jpeg

from tlab.core.errors import UserError
from tlab.data.sources.csv_table import csv_index
from tlab.data.sources.folder import ImageIndex, folder_index
from tlab.data.sources.samples import Sample, Samples


def names(index, split):
    return [index.relative(sample.path) for sample in index.splits[split]]


def test_class_folders_are_split_by_us_and_sorted(make_folder):
    root = make_folder({"dogs": 20, "Ängste": 20, "cats/deep/er": 20})
    index = folder_index(root, val_fraction=0.25, test_fraction=0.25, seed=3)
    assert index.classes == ("cats", "dogs", "Ängste")
    assert list(index.splits) == ["train", "val", "test"]
    every = [name for split in index.splits for name in names(index, split)]
    assert sorted(every) == sorted(f"{c}/{i}.jpg" for c in ("dogs", "Ängste", "cats/deep/er") for i in range(20))
    for samples in index.splits.values():
        assert [(s.label, s.path) for s in samples] == sorted((s.label, s.path) for s in samples)
        assert {sample.label for sample in samples} == {0, 1, 2}
    assert all(index.classes[s.label] in s.path.parts and s.path.is_absolute() for s in index.splits["train"])


def test_missing_val_is_split_off_train_and_test_folder_stays(make_folder):
    root = make_folder({"train/a": 30, "train/b": 30, "test/a": 2, "test/b": 2})
    index = folder_index(root, val_fraction=0.2, test_fraction=0.4)
    assert names(index, "test") == ["test/a/0.jpg", "test/a/1.jpg", "test/b/0.jpg", "test/b/1.jpg"]
    assert len(index.splits["train"]) + len(index.splits["val"]) == 60
    assert all(name.startswith("train/") for name in names(index, "val"))


def test_test_fraction_comes_from_train_where_only_val_is_given(make_folder):
    root = make_folder({"train/a": 20, "train/b": 20, "val/a": 3, "val/b": 3})
    index = folder_index(root, test_fraction=0.25)
    assert len(index.splits["val"]) == 6
    assert all(name.startswith("train/") for name in names(index, "test"))
    assert folder_index(root).splits.keys() == {"train", "val"}


def test_hidden_files_and_other_files_are_ignored(odd_folder):
    root, _ = odd_folder
    index = folder_index(root)
    found = [index.relative(sample.path) for samples in index.splits.values() for sample in samples]
    assert index.classes == ("cats", "dogs")
    on_disk = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    ignored = {
        "cats/notes.txt",
        "cats/Thumbs.db",
        "cats/.hidden.jpg",
        "cats/._0.jpg",
        "__MACOSX/0.jpg",
        ".git/0.jpg",
    }
    assert set(found) == on_disk - ignored - {"cats/.ipynb_checkpoints/0.jpg"}


@pytest.mark.parametrize(
    ("pattern", "gone"),
    [
        ("a/0.jpg", {"a/0.jpg"}),
        ("*/0.jpg", {"a/0.jpg", "b/0.jpg", "b/odd/0.jpg", "c/0.jpg"}),
        ("b/odd", {"b/odd/0.jpg", "b/odd/1.jpg"}),
        ("b/odd/", {"b/odd/0.jpg", "b/odd/1.jpg"}),
        ("c/**", {"c/0.jpg", "c/1.jpg", "c/2.jpg"}),
        ("c", {"c/0.jpg", "c/1.jpg", "c/2.jpg"}),
        ("{root}/a/0.jpg", {"a/0.jpg"}),
        ("{name}/b/odd", {"b/odd/0.jpg", "b/odd/1.jpg"}),
    ],
)
def test_exclude(make_folder, monkeypatch, pattern, gone):
    root = make_folder({"a": 6, "b": 6, "b/odd": 2, "c": 3})
    pattern = pattern.format(root=root, name=root.name)
    monkeypatch.chdir(root.parent)
    root = root.relative_to(root.parent)
    everything = folder_index(root)
    index = folder_index(root, exclude=[pattern])
    before, after = (
        {i.relative(s.path) for samples in i.splits.values() for s in samples} for i in (everything, index)
    )
    assert before - after == gone
    assert after <= before
    assert ("c" in index.classes) == (not pattern.startswith("c"))


def test_exclude_that_matches_nothing_is_remarked(make_folder):
    index = folder_index(make_folder({"a": 3, "b": 3}), exclude=["a/9.jpg", "a/0.jpg"])
    assert index.issues == ("data.exclude: the pattern 'a/9.jpg' matched no file.",)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({}, ["no class folders"]),
        ({"": 3}, ["side by side"]),
        ({"only": 5}, ["one class", "'only'"]),
        ({"a": 0, "b": 0}, ["'a/', 'b/'", "extension"]),
        ({"a": 5, "b": 0}, ["'b/'", "extension", "'a'"]),
        ({"a": 1, "b": 1}, ["2 images", "train and val"]),
        ({"train/a": 5, "train/b": 5, "val/a": 2, "val/b": 2, "val/c": 2}, ["'c'", "val, not train"]),
        ({"train/a": 5, "train/b": 5, "test/a": 2, "test/c": 2}, ["'c'", "test, not train"]),
        ({"val/a": 5, "val/b": 5}, ["'val'", "no 'train'"]),
        ({"train/a": 5, "train/b": 5, "val/a": 2, "val/b": 2, "valid/a": 2}, ["'val'", "'valid'"]),
    ],
)
def test_mistakes_in_the_folder_are_named(make_folder, layout, words):
    root = make_folder({name: count for name, count in layout.items() if name})
    for i in range(layout.get("", 0)):
        (root / f"{i}.jpg").write_bytes(jpeg(i))
    with pytest.raises(UserError) as caught:
        folder_index(root)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fractions", "key"),
    [
        ({"val_fraction": 0.0}, "data.val_fraction=0"),
        ({"val_fraction": 1.0}, "data.val_fraction=1.0"),
        ({"val_fraction": -0.1}, "data.val_fraction=-0.1"),
        ({"val_fraction": "half"}, "data.val_fraction=half"),
        ({"test_fraction": 1.5}, "data.test_fraction=1.5"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "sum"),
    ],
)
def test_fractions_out_of_range(make_folder, fractions, key):
    root = make_folder({"a": 6, "b": 6})
    with pytest.raises(UserError, match=key):
        folder_index(root, **fractions)


def test_roots_that_are_no_folder(tmp_path: Path):
    (tmp_path / "file.zip").write_text("")
    with pytest.raises(UserError, match=r"data.root=.*does not exist"):
        folder_index(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"data.root=.*is a file"):
        folder_index(tmp_path / "file.zip")


def test_links_are_followed_but_not_for_ever(make_folder):
    root = make_folder({"a": 6, "b": 6})
    (root / "a" / "up").symlink_to(root / "a")
    (root / "c").symlink_to(root / "b")
    (root / "b" / "itself.txt").symlink_to("itself.txt")
    index = folder_index(root)
    assert index.classes == ("a", "b", "c")
    assert sum(len(samples) for samples in index.splits.values()) == 18


def test_fingerprint_tells_content_changes_and_nothing_else(make_folder):
    root = make_folder({"a": 6, "b": 6})
    first = folder_index(root).fingerprint()
    assert folder_index(root).fingerprint() == first
    assert folder_index(root, seed=1).fingerprint() != first
    (root / "a" / "0.jpg").write_bytes(jpeg(99, (50, 50)))
    assert folder_index(root).fingerprint() != first


def test_fingerprint_stays_the_same_from_version_to_version(tmp_path):
    """Records of runs hold it, and are compared."""
    samples = []
    for number, name in enumerate(("a/1.png", "b/ä 2.png")):
        file = tmp_path / name
        file.parent.mkdir()
        file.write_bytes(bytes(number + 1))
        os.utime(file, ns=(10**18 + number, 10**18 + number))
        samples.append(Sample(str(file), number))
    index = ImageIndex(tmp_path, ("a", "b"), {"train": Samples(samples), "val": Samples(samples[:1])})
    assert index.fingerprint() == "dfbb48d9f1d06af915f0eb08b43f2efc"


def test_samples_are_those_that_were_given():
    """Names that are no valid text among them."""
    given = [Sample("/a/1.png", 0), Sample(os.fsdecode(b"/b/\xff.png"), 1), Sample("/照片/ä", 12)]
    samples = Samples(given)
    assert (list(samples), len(samples), samples[-1], samples[1:]) == (given, 3, given[2], Samples(given[1:]))
    assert samples.labels.tolist() == [0, 1, 12]
    assert samples == Samples(iter(given)) != Samples(given[:2])
    with pytest.raises(IndexError):
        samples[3]
    assert list(Samples()) == []


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared data")
def test_shared_data_sets():
    index = folder_index(SHARED / "hymenoptera")
    assert {split: len(samples) for split, samples in index.splits.items()} == {"train": 245, "val": 153}
    table = csv_index(SHARED / "cifar10_kaggle", "trainLabels.csv", images="train", val_fraction=0.1)
    assert len(table.classes) == 10
    assert sum(map(len, table.splits.values())) == 4000
    assert 340 <= len(table.splits["val"]) <= 460
