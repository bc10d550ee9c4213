"""The size at which images are best seen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from tlab.advising.image_size import choose_image_size
from tlab.assembly.frozen_features import open_images
from tlab.config.hydra import compose


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """root/{train,val}/{a,b}: 2 gray images of a class, 300 x 250 px."""
    root = tmp_path_factory.mktemp("large")
    for place, (split, name) in enumerate((split, name) for split in ("train", "val") for name in "ab"):
        (root / split / name).mkdir(parents=True)
        for number in range(2):
            pixels = np.full((250, 300), 20 * (4 * number + place), np.uint8)
            Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def plain_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of MobileNetV3, which does not tell the size of any image."""
    file = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), file)
    return file


@pytest.fixture
def choose(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    def chosen(root: Path, *overrides: Any) -> tuple[int, str]:
        mine = [
            f"data.root={root}",
            "backbone=mobilenet_v3_small",
            "trainer=cpu",
            f"run_dir={tmp_path}",
            *overrides,
        ]
        cfg = compose(mine)
        return choose_image_size(cfg, open_images(cfg))

    return chosen


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Size -> held-out loss of a probe, of which nothing is kept between tests."""
    found: dict[int, float] = {}
    monkeypatch.setattr("tlab.advising.image_size.held_out_loss", lambda _, data: found[data.image_size])
    monkeypatch.setattr("tlab.advising.image_size.statistics_digest", lambda *_: None)
    return found


def test_a_size_that_is_given_is_kept(choose, large):
    assert choose(large, "data.image_size=80")[0] == 80


def test_small_images_are_not_blown_up(choose, photos, plain_weights):
    for weights in (plain_weights, "bundled", "null"):
        size, why = choose(photos, f"backbone.weights={weights}")
        assert size == 64
        assert "36 px or less" in why


@pytest.mark.parametrize(
    ("measured", "size"),
    [
        ({64: 0.50, 128: 0.60, 224: 0.70}, 64),
        ({64: 0.60, 128: 0.52, 224: 0.50}, 128),  # counts as equal, and costs a third
        ({64: 0.90, 128: 0.80, 224: 0.50}, 224),
    ],
)
def test_weights_that_tell_no_size_are_probed_at_several(choose, large, plain_weights, losses, measured, size):
    losses |= measured
    chosen, why = choose(large, f"backbone.weights={plain_weights}")
    assert chosen == size
    assert "do not tell" in why
    assert all(f"{loss:.3f} at {side} px" in why for side, loss in measured.items())


def test_weights_of_small_images_are_tried_on_larger_ones(choose, large, losses):
    losses |= {96: 0.5, 192: 0.3}
    size, why = choose(large, "backbone.weights=bundled")
    assert size == 192
    assert "seen theirs at 96 px" in why
    losses[96] = 0.3
    assert choose(large, "backbone.weights=bundled")[0] == 96


def test_a_probe_is_held_out_at_each_size(choose, large):
    size, why = choose(large, "backbone.weights=bundled")
    assert size in (96, 192)
    assert why.count(" at ") >= 4
