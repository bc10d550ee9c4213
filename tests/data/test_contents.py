"""The list of a run's images: what it depends on, and that it reads as it was written."""

import os
import re
import shutil
from functools import partial
from pathlib import Path

import pytest

from tlab.data.contents import Contents, read_contents, read_entries
from tlab.data.sources.csv_table import csv_index
from tlab.data.sources.folder import folder_index


def of(root: Path, decode: bool = False, **options) -> Contents:
    return read_contents(partial(folder_index, root, **options), decode)


@pytest.fixture
def root(make_folder) -> Path:
    return make_folder({"cat": 6, "dog": 6})


def test_a_list_reads_as_it_was_written(root, tmp_path):
    (root / "cat/0.jpg").rename(root / 'cat/a "b", c\n.jpg')
    contents = of(root, decode=True)
    assert {'cat/a "b", c\n.jpg', "dog/0.jpg"} <= {entry.path for entry in contents.entries}
    contents.write(tmp_path / "data.csv")
    assert read_entries(tmp_path / "data.csv") == contents.entries


def test_the_fingerprint_follows_names_classes_and_content_alone(root, tmp_path):
    first = of(root).fingerprint()
    for file in root.rglob("*.jpg"):
        os.utime(file, (1, 1))
    assert of(root, seed=1, val_fraction=0.4).fingerprint() == first
    assert of(shutil.copytree(root, tmp_path / "elsewhere")).fingerprint() == first
    other = [first]
    (root / "cat/0.jpg").rename(root / "cat/9.jpg")
    other.append(of(root).fingerprint())
    (root / "cat/9.jpg").rename(root / "dog/9.jpg")
    other.append(of(root).fingerprint())
    shutil.copy(root / "cat/1.jpg", root / "dog/9.jpg")
    other.append(of(root).fingerprint())
    assert len(set(other)) == 4


def test_images_beside_the_root_move_with_it(root, tmp_path):
    for place in ("here", "there"):
        folder = tmp_path / place / "tables"
        folder.mkdir(parents=True)
        shutil.copytree(root, tmp_path / place / "pictures")
        rows = [f"{name}/{i},{name},s{i}\n" for name in ("cat", "dog") for i in range(6)]
        (folder / "labels.csv").write_text("id,label,site\n" + "".join(rows))
    here, there = (
        read_contents(partial(csv_index, tmp_path / place / "tables", images="../pictures"), False)
        for place in ("here", "there")
    )
    assert {entry.path.rpartition("/")[0] for entry in here.entries} == {"../pictures/cat", "../pictures/dog"}
    assert here == there
    here.write(tmp_path / "data.csv")
    assert all(re.search(r"/(\d)\.jpg,.*,s\1$", line) for line in (tmp_path / "data.csv").read_text().split()[1:])


def test_what_is_no_image_is_told_by_decoding_and_remembered(root):
    (root / "cat/broken.jpg").write_bytes(b"no image")
    (root / "cat/lost.jpg").symlink_to(root / "nowhere.jpg")
    assert len(of(root).entries) == 13
    decoded = of(root, decode=True)
    assert len(decoded.entries) == 12
    assert decoded.unreadable == {"cat/broken.jpg", "cat/lost.jpg"}
    assert of(root).entries == decoded.entries
