"""What a checkpoint alone says of images that it does not know, and of how sure it is."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tlab
from tlab.assembly.uncertainty import drawn
from tlab.config.hydra import compose
from tlab.evaluate import evaluate
from tlab.train import train

QUICK = (
    *("data.image_size=32", "data.batch_size=12", "data.num_workers=0", "backbone.weights=null", "trainer=cpu"),
    *("trainer.precision=32-true", "trainer.max_epochs=2", "logger=none"),
)


def trained(photos, directory, *overrides):
    train(compose([*QUICK, *overrides, f"data.root={photos}", f"run_dir={directory}"]))
    return directory


def about(run, name="best"):
    return torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)["tlab"]


@pytest.fixture(scope="module")
def tuned(photos, tmp_path_factory):
    """A run whose backbone has trained too, so that no stored features are its own."""
    return trained(photos, tmp_path_factory.mktemp("tuned"), "finetune.head_epochs=1")


@pytest.fixture(scope="module")
def alone(tuned, tmp_path_factory):
    """A copy of its checkpoint, with nothing beside it."""
    return Path(shutil.copyfile(tuned / "checkpoints/best.ckpt", tmp_path_factory.mktemp("alone") / "model.ckpt"))


@pytest.fixture(scope="module")
def stripes(photos, tmp_path_factory):
    """Images of another kind, in folders of the same names."""
    folder = tmp_path_factory.mktemp("stripes")
    for number, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir()
        for width in range(1, 5):
            pixels = np.zeros((40, 40, 3), np.uint8)
            pixels[np.arange(40) // width % 2 == 0, :, number] = 255
            Image.fromarray(pixels).save(folder / name / f"{width}.png")
    return folder


def asked(command, run, *overrides):
    return compose([f"run={run}", "num_workers=0", "accelerator=cpu", *overrides], command)


def test_a_lone_checkpoint_knows_its_images_and_not_others(alone, photos, stripes):
    model = tlab.load(alone, accelerator="cpu")
    assert all(one.known for one in model.predict(photos / "val"))  # at least 95 % of 18
    assert sum(not one.known for one in model.predict(photos / "test")) <= 4
    assert not any(one.known for one in model.predict(stripes))
    assert not hasattr(model.predict(stripes)[0].known, "item")


def test_stored_features_say_the_same_as_those_computed_anew(photos, tmp_path):
    """Stored with training's own, stored beside augmented ones, or of one pass."""
    cases = {"stored": "aug=none", "beside": "aug=light", "anew": "features.cache=off"}
    solved = ("finetune=head", "trainer.max_epochs=1", "head.solver=sgd", "optimizer.lr=0")
    found = {}
    for name, override in cases.items():
        found[name] = about(trained(photos, tmp_path / name, *solved, override))["uncertainty"]
    for name in ("beside", "anew"):
        for key, value in found["stored"].items():
            torch.testing.assert_close(found[name][key], value, msg=f"{name}: {key}", rtol=1e-3, atol=1e-5)


def test_evaluate_tells_what_share_is_unknown_as_predict_does(alone, tuned, photos, stripes, tmp_path):
    for run in (alone, tuned):
        assert evaluate(asked("evaluate", run, f"data.root={stripes}"))["all/unknown"] == 1
    mixed = shutil.copytree(photos / "test", tmp_path / "mixed")
    for name in ("red", "green", "blue"):
        shutil.copyfile(stripes / name / "2.png", mixed / name / "stripes.png")
    share = evaluate(asked("evaluate", alone, f"data.root={mixed}"))["all/unknown"]
    predictions = tlab.load(alone, accelerator="cpu").predict(mixed)
    assert share == sum(not one.known for one in predictions) / len(predictions)


@pytest.mark.parametrize("by_class", [True, False])
def test_images_are_drawn_alike_in_every_run(by_class):
    labels = torch.tensor([0] * 50 + [1] * 5 + [3] * 30)
    chosen = drawn(labels, 30, by_class)
    assert torch.equal(chosen, drawn(labels, 30, by_class))
    assert torch.equal(chosen, chosen.unique())
    assert {*drawn(labels, 20, by_class).tolist()} < {*chosen.tolist()}
    counts = torch.bincount(labels[chosen], minlength=4).tolist()
    assert counts in ([12, 5, 0, 13], [13, 5, 0, 12]) if by_class else counts != [13, 5, 0, 12]
    assert torch.equal(drawn(labels, 100, by_class), torch.arange(85))
