"""The built-in sample: drawn once, the same everywhere, and only shape tells the classes apart."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlab.core.errors import UserError
from tlab.data.sources.atomic_directory import build_atomically
from tlab.data.sources.demo import index
from tlab.data.sources.demo.index import demo_index, draw_demo
from tlab.data.sources.demo.scene import draw_scene
from tlab.data.sources.demo.shapes import SHAPES

SMALL = {"train": 2, "val": 1, "test": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.jpg"))}


def test_ten_classes_and_three_splits():
    index = demo_index(images_per_class=SMALL, image_size=32)
    assert index.classes == tuple(sorted(SHAPES))
    assert len(index.classes) == 10
    assert {split: len(samples) for split, samples in index.splits.items()} == {"train": 20, "val": 10, "test": 10}
    with Image.open(index.splits["train"][0].path) as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")


def test_the_demo_in_folds_and_within_a_limit():
    options = {"images_per_class": SMALL, "image_size": 32, "folds": 3, "fold": 2}
    numbers = {split: len(samples) for split, samples in demo_index(**options, limit=1).splits.items()}
    assert numbers == {"train": 10, "val": 10, "test": 10}


def test_an_image_is_a_function_of_seed_split_class_and_number(tmp_path):
    for name, seed, counts in (
        ("a", 3, SMALL),
        ("again", 3, SMALL),
        ("more", 3, {"train": 3, "val": 1}),
        ("other", 4, SMALL),
    ):
        draw_demo(tmp_path / name, seed, counts, image_size=32)
    first, more = contents(tmp_path / "a"), contents(tmp_path / "more")
    assert contents(tmp_path / "again") == first
    assert all(more[name] == first[name] for name in first.keys() & more.keys())
    assert len(first.keys() & more.keys()) == 30
    assert not set(contents(tmp_path / "other").values()) & set(first.values())
    assert len(set(first.values())) == len(first), "two images are the same"


def test_drawn_once(monkeypatch, cache):
    first = demo_index(images_per_class=SMALL, image_size=32)
    assert cache in first.root.parents
    monkeypatch.setattr(index, "draw_demo", lambda *_: pytest.fail("drawn a second time"))
    assert demo_index(images_per_class=SMALL, image_size=32).fingerprint() == first.fingerprint()


def test_another_folder(tmp_path, cache):
    index = demo_index(tmp_path / "here", images_per_class=SMALL, image_size=32)
    assert tmp_path / "here" in index.root.parents
    assert not cache.exists()
    demo_index(tmp_path / "here", seed=1, images_per_class=SMALL, image_size=32)


def test_a_folder_of_other_things_is_left_as_it_is(tmp_path):
    (tmp_path / "own/cat").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds other things \(cat\)"):
        demo_index(tmp_path / "own", images_per_class=SMALL, image_size=32)
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["cat"]


def _index_root(_: int) -> str:
    return str(demo_index(images_per_class=SMALL, image_size=32).root)


def test_two_processes_at_once(cache):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        roots = pool.map(_index_root, range(2), chunksize=1)
    assert roots[0] == roots[1]
    assert [path.name for path in (cache / "demo").iterdir()] == [Path(roots[0]).name]
    assert len(contents(Path(roots[0]))) == 40


def test_the_process_that_comes_second_takes_what_is_there(tmp_path):
    def slow(fresh: Path) -> None:
        (tmp_path / "target").mkdir()
        (tmp_path / "target" / "winner").touch()
        (fresh / "loser").touch()

    assert [p.name for p in build_atomically(tmp_path / "target", slow).iterdir()] == ["winner"]
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_a_crash_leaves_nothing(tmp_path):
    def crash(fresh: Path) -> None:
        (fresh / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_atomically(tmp_path / "target", crash)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        demo_index(tmp_path / "file", images_per_class=SMALL, image_size=32)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"images_per_class": {"train": 2}}, "val"),
        ({"images_per_class": {"train": 2, "val": 1, "dev": 1}}, "dev"),
        ({"image_size": 4}, "image_size"),
        ({"seed": -1}, "seed"),
    ],
)
def test_mistakes_are_named(arguments, word):
    with pytest.raises(UserError, match=word):
        demo_index(**arguments)


def test_mean_color_tells_nothing_but_shape_does():
    """Nearest class mean: near chance on the mean colour, far above it on what one class's outlines share."""
    names = list(SHAPES)
    pictures = np.stack(
        [
            [np.asarray(draw_scene(n, 32, np.random.default_rng([7, k, i])), dtype=float) for i in range(30)]
            for k, n in enumerate(names)
        ]
    )

    def accuracy(features_KND: np.ndarray) -> float:
        means_KD = features_KND[:, :20].mean(1)
        distances = ((features_KND[:, 20:, None] - means_KD) ** 2).sum(-1)
        return float((distances.argmin(-1) == np.arange(len(names))[:, None]).mean())

    colors = pictures.mean((2, 3))
    gray = pictures.mean(-1)
    edges = np.abs(np.diff(gray, axis=2))[..., :-1] + np.abs(np.diff(gray, axis=3))[:, :, :-1]
    edges = edges[:, :, :30, :30].reshape(10, 30, 10, 3, 10, 3).mean((3, 5)).reshape(10, 30, 100)
    assert accuracy(colors) < 0.22
    assert accuracy(edges) > 0.3
