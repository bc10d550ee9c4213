"""Real torchvision loading code on small files in the real formats; nothing is downloaded."""

import hashlib
import io
import pickle
import shutil
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from tlab.core.errors import UserError
from tlab.data.sources.torchvision_sets import torchvision_index

CLASSES = ["bird", "cat/dog", "ship"]
STL10_IMAGES = {"train": 8, "test": 2, "unlabeled": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("socket.create_connection", refuse)


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A CIFAR10 in its own pickle format: 4 train and 2 test images of each class, of one gray level each."""
    folder = tmp_path / "files" / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def write(name: str, content: dict) -> list[str]:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch(labels: list[int], first: int) -> dict:
        levels = np.arange(first, first + len(labels), dtype=np.uint8)
        return {"data": np.repeat(levels[:, None], 3072, axis=1), "labels": labels}

    cls = datasets.CIFAR10
    parts = [
        write("data_batch_1", batch([0, 1, 2, 0, 1, 2], 0)),
        write("data_batch_2", batch([0, 1, 2, 0, 1, 2], 6)),
    ]
    monkeypatch.setattr(cls, "train_list", parts)
    monkeypatch.setattr(cls, "test_list", [write("test_batch", batch([0, 1, 2, 2, 1, 0], 100))])
    name, md5 = write("batches.meta", {"label_names": CLASSES})
    monkeypatch.setattr(cls, "meta", {"filename": name, "key": "label_names", "md5": md5})
    return tmp_path / "files"


def count(index) -> dict[str, list[int]]:
    return {
        split: np.bincount([s.label for s in samples], minlength=len(index.classes)).tolist()
        for split, samples in index.splits.items()
    }


def test_cifar_keeps_its_test_split_and_gives_val_from_train(cifar):
    index = torchvision_index("CIFAR10", cifar, val_fraction=0.25)
    assert index.classes == ("bird", "cat-dog", "ship")
    assert count(index) == {"train": [3, 3, 3], "val": [1, 1, 1], "test": [2, 2, 2]}
    assert torchvision_index("CIFAR10", cifar, val_fraction=0.25) == index


def test_every_pixel_and_label_is_that_of_torchvision(cifar):
    index = torchvision_index("CIFAR10", cifar)
    for split, train in (("train", True), ("test", False)):
        own = datasets.CIFAR10(cifar, train=train)
        folder = index.root / split
        written = {path.stem: path for path in folder.glob("*/*.png")}
        assert len(written) == len(own)
        for i, (image, label) in enumerate(own):
            path = written[f"{i:05d}"]
            assert path.parent.name == index.classes[label]
            with Image.open(path) as copy:
                assert copy.tobytes() == image.tobytes()


def test_written_once_then_the_source_is_not_needed(cifar, tmp_path):
    first = torchvision_index("CIFAR10", cifar).fingerprint()
    cifar.rename(tmp_path / "gone")
    assert torchvision_index("CIFAR10", cifar).fingerprint() == first


def test_limit_and_exclude(cifar):
    limited, whole = (count(torchvision_index("CIFAR10", cifar, limit=limit)) for limit in (1, None))
    assert limited == whole | {"train": [1, 1, 1]}
    assert torchvision_index("CIFAR10", cifar, exclude=["*/ship"]).classes == ("bird", "cat-dog")
    with pytest.raises(UserError, match="limit"):
        torchvision_index("CIFAR10", cifar, limit=0)


def test_stl10_from_the_archive_that_its_site_hands_out(tmp_path, monkeypatch):
    """Columns before rows, labels from 1; the archive lies there, torchvision checks, unpacks and reads it."""
    rng = np.random.default_rng(0)
    images = {
        name: rng.integers(0, 256, (count, 96, 96, 3), dtype=np.uint8) for name, count in STL10_IMAGES.items()
    }
    labels = {"train": np.array([1, 2] * 4, dtype=np.uint8), "test": np.array([2, 1], dtype=np.uint8)}
    contents = {f"{name}_X.bin": pixels.transpose(0, 3, 2, 1).tobytes() for name, pixels in images.items()}
    contents |= {f"{name}_y.bin": values.tobytes() for name, values in labels.items()}
    texts = {"class_names.txt": b"airplane\nbird\n", "fold_indices.txt": b"0 1 2 3 \n" * 10}
    archive = tmp_path / "stl10_binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in (contents | texts).items():
            member = tarfile.TarInfo(f"stl10_binary/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    digests = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(datasets.STL10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    for attribute in ("train_list", "test_list"):
        files = [[name, digests[name]] for name, _ in getattr(datasets.STL10, attribute)]
        monkeypatch.setattr(datasets.STL10, attribute, files)
    index = torchvision_index("STL10", tmp_path)
    assert index.classes == ("airplane", "bird")
    assert count(index) == {"train": [3, 3], "val": [1, 1], "test": [1, 1]}
    for split, parts in {"train": ("train", "val"), "test": ("test",)}.items():
        for sample in (each for part in parts for each in index.splits[part]):
            number = int(sample.path.stem)
            assert sample.label == labels[split][number] - 1
            with Image.open(sample.path) as written:
                np.testing.assert_array_equal(np.asarray(written), images[split][number])


@pytest.fixture
def textures(tmp_path):
    """A DTD in its own layout: JPEG files, one official list per split."""
    base = tmp_path / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k, split in enumerate(("train", "val", "test")):
        names = [f"{c}/{c}_{k}{i}.jpg" for c in ("banded", "woven") for i in range(2)]
        (base / "labels" / f"{split}1.txt").write_text("\n".join(names))
        for name in names:
            path = base / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return tmp_path


def test_image_files_keep_their_bytes_and_the_official_val_split_stays(textures):
    index = torchvision_index("DTD", textures, val_fraction=0.9)
    assert count(index) == {"train": [2, 2], "val": [2, 2], "test": [2, 2]}
    source = sorted(path.read_bytes() for path in (textures / "dtd" / "dtd" / "images").glob("*/*.jpg"))
    assert sorted(path.read_bytes() for path in index.root.glob("*/*/*.jpg")) == source


@pytest.mark.parametrize("name", ["CIFAR10", "STL10", "OxfordIIITPet", "Flowers102", "SVHN", "GTSRB", "MNIST"])
def test_without_network_the_sentence_says_what_and_where(name, tmp_path, cache):
    with pytest.raises(UserError, match="network") as caught:
        torchvision_index(name, tmp_path / "root")
    message = str(caught.value)
    assert str(tmp_path / "root") in message
    assert any(end in message for end in (".tar.gz", ".tgz", ".mat", ".zip", ".gz"))
    assert "\n" not in message
    assert not list((cache / "torchvision").glob("*")), "half a data set was left"


def test_the_file_that_the_sentence_names_is_enough(textures, tmp_path, monkeypatch):
    """Follow the advice: put the archive where the message says, and it works offline."""
    root = tmp_path / "empty"
    with pytest.raises(UserError, match=r"put (\S+) into (\S+),") as caught:
        torchvision_index("DTD", root)
    name, folder = caught.value.args[0].split("or put ")[1].split(", or")[0].split(" into ")
    archive = shutil.make_archive(str(tmp_path / "dtd-archive"), "gztar", textures / "dtd")
    shutil.copy(archive, f"{folder}/{name}")
    monkeypatch.setattr(datasets.DTD, "_MD5", hashlib.md5(Path(archive).read_bytes()).hexdigest())
    assert count(torchvision_index("DTD", root))["train"] == [2, 2]


@pytest.mark.parametrize(
    ("name", "hint"), [("CIFAR", "CIFAR10"), ("stl10", "STL10"), ("Flower102", "Flowers102"), ("xyzzy", "STL10")]
)
def test_unknown_name_meets_close_ones(name, hint):
    with pytest.raises(UserError, match=f"{name} .*{hint}"):
        torchvision_index(name)


def test_what_is_not_classification_is_refused(tmp_path, monkeypatch):
    class Boxes(datasets.VisionDataset):
        def __init__(self, root: str):
            super().__init__(root)

        def __len__(self) -> int:
            return 1

        def __getitem__(self, i: int):
            return Image.new("RGB", (4, 4)), {"boxes": torch.zeros(1, 4)}

    monkeypatch.setattr(datasets, "Boxes", Boxes, raising=False)
    with pytest.raises(UserError, match="Boxes does not give one class"):
        torchvision_index("Boxes", tmp_path)


def test_wrong_option_is_named(cifar):
    with pytest.raises(UserError, match="colour"):
        torchvision_index("CIFAR10", cifar, options={"colour": True})
