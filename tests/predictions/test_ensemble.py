"""Several runs that predict together, and images that are looked at twice."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import tlab
from tlab.core.errors import UserError

NAMES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def another(make_run) -> Path:
    """A run on larger, padded images, with other weights."""
    return make_run("data.image_size=40", "data.resize=pad", "seed=1")


def shares(model, images):
    return [[each.probabilities[name] for name in NAMES] for each in model.predict(images)]


def written(rows):
    return [[float(row[f"p({name})"]) for name in NAMES] for row in rows]


def changed(run: Path, file: Path, classes: list[str]) -> Path:
    """Write a run's checkpoint with its classes in another order, or with other names, and return its path."""
    content = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    order = [classes.index(name) if name in classes else i for i, name in enumerate(content["tlab"]["classes"])]
    for key, tensor in content["state_dict"].items():
        if "head" in key and tensor.shape[:1] == (3,):
            turned = tensor.clone()
            turned[order] = tensor
            content["state_dict"][key] = turned
    content["tlab"]["classes"] = classes
    torch.save(content, file)
    return file


def test_the_mean_of_several_runs_each_with_its_own_image_size(give, trained, another, photos, tmp_path):
    turned = changed(another, tmp_path / "turned.ckpt", ["red", "blue", "green"])
    rows = give(f"run=[{trained},{turned}]", f"input={photos}/test/red")
    models = [tlab.load(run, accelerator="cpu") for run in (trained, another)]
    expected = np.mean([shares(model, photos / "test/red") for model in models], 0)
    np.testing.assert_allclose(written(rows), expected, atol=2e-6)
    assert [row["prediction"] for row in rows] == [NAMES[i] for i in expected.argmax(1)]
    assert list(rows[0]) == [
        "path",
        "prediction",
        "probability",
        *(f"p({name})" for name in NAMES),
        "known",
        "reason",
    ]


def test_the_finished_runs_of_a_sweep(give, trained, another, photos, tmp_path, caplog):
    for number, run in enumerate((trained, another, trained)):
        shutil.copytree(run, tmp_path / f"sweep/a=b/seed={number}")
    last = tmp_path / "sweep/a=b/seed=2/run.json"
    last.write_text(json.dumps(json.loads(last.read_text()) | {"status": "failed"}))
    (last.parent / "metrics.json").unlink()
    shutil.copytree(trained, tmp_path / "sweep/a=b/seed=0/baselines/none")
    rows = give("run=sweep", f"input={photos}/test/red/00.png")
    assert "1 of 3 runs in sweep is not finished" in caplog.text
    assert "The mean of 2 runs" in caplog.text
    assert written(rows) == written(give(f"run=[{trained},{another}]", f"input={photos}/test/red/00.png"))
    for each in (0, 1):
        shutil.rmtree(tmp_path / f"sweep/a=b/seed={each}")
    with pytest.raises(UserError, match="holds 1 run, of which none is finished"):
        give("run=sweep", f"input={photos}/test")


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["blue", "green", "pink"], "other.ckpt has the class 'pink', which run=.* has not \\(2 classes"),
        (["Blue", "green", "red"], "other.ckpt has the class 'Blue'"),
    ],
)
def test_runs_with_other_classes_are_refused(give, trained, photos, tmp_path, classes, words):
    other = changed(trained, tmp_path / "other.ckpt", classes)
    with pytest.raises(UserError, match=words):
        give(f"run=[{trained},{other}]", f"input={photos}/test")


def test_each_image_and_its_mirror_image(give, another, tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 120, (40, 40, 3))
    pixels[:, :20, 0] += 100
    pixels[:, 20:, 2] += 100
    image = Image.fromarray(pixels.astype(np.uint8))
    image.save(tmp_path / "image.png")
    both = [image, ImageOps.mirror(image)]
    (row,) = give(f"run={another}", "input=image.png", "tta=flip")
    one, two = shares(tlab.load(another, accelerator="cpu"), both)
    assert np.abs(np.subtract(one, two)).max() > 1e-5
    np.testing.assert_allclose(written([row])[0], np.mean([one, two], 0), atol=2e-6)
    with pytest.raises(UserError, match="tta=rotate is not one of null, flip"):
        give("input=image.png", "tta=rotate")


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
def test_a_checkpoint_may_lie_in_a_folder_of_any_bytes(give, trained, photos, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    shutil.copyfile(trained / "checkpoints/best.ckpt", folder / "model.ckpt")
    (row,) = give(f"run={folder}/model.ckpt", f"input={photos}/test/red/00.png")
    assert row["prediction"] == "red"
