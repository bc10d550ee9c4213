"""Colours change as torchvision changes them, within a grey level, and in one pass."""

import cv2
import numpy as np
import pytest
import torch
from pictures import picture
from torchvision.transforms.v2 import functional as TF

from tlab.data.augment import lazy_image as canvas_module
from tlab.data.augment.color import (
    GRAY,
    ColorJitter,
    GaussianNoise,
    RandomErasing,
    brightness_matrix,
    contrast_matrix,
    hue_matrix,
    saturation_matrix,
)
from tlab.data.augment.compose import Compose
from tlab.data.augment.lazy_image import LazyImage


def muted(seed: int = 0) -> np.ndarray:
    """A picture whose colours stay within 0..255 under all that the tests do."""
    return np.array(picture(seed, (40, 30))) // 3 + 70


def changed(x_HWC: np.ndarray, *matrices: np.ndarray) -> torch.Tensor:
    canvas = LazyImage(x_HWC)
    for matrix in matrices:
        canvas.recolor(matrix)
    return canvas.tensor().int()


def test_brightness_contrast_and_saturation_are_torchvisions():
    x_HWC = muted()
    x = torch.from_numpy(x_HWC).permute(2, 0, 1)
    gray = float(GRAY @ LazyImage(x_HWC).mean())
    for got, expected in [
        (changed(x_HWC, brightness_matrix(1.3)), TF.adjust_brightness(x, 1.3)),
        (changed(x_HWC, contrast_matrix(0.6, gray)), TF.adjust_contrast(x, 0.6)),
        (changed(x_HWC, saturation_matrix(1.5)), TF.adjust_saturation(x, 1.5)),
    ]:
        assert (got - expected.int()).abs().max() <= 1


def test_hue_turns_as_torchvisions_does():
    x_HWC = muted()
    x = torch.from_numpy(x_HWC).permute(2, 0, 1)
    for turns in (-0.1, 0.05, 0.2):
        got, expected = changed(x_HWC, hue_matrix(turns)).double(), TF.adjust_hue(x, turns).double()
        moved, wanted = ((each - each.mean(0) - (x - x.double().mean(0))).flatten() for each in (got, expected))
        assert torch.corrcoef(torch.stack([moved, wanted]))[0, 1] > 0.9
        weights = torch.tensor(GRAY)
        assert (torch.einsum("chw,c->hw", got - x, weights)).abs().max() <= 1  # lightness stays
    gray = np.full((2, 2, 3), 90, np.uint8)
    assert (changed(gray, hue_matrix(0.3)) == 90).all()


def test_contrast_is_about_the_mean_of_the_image_as_it_is_then():
    jitter = ColorJitter(contrast=(0.0, 0.0))
    canvas = LazyImage(muted())
    canvas.recolor(brightness_matrix(0.5))
    gray = float(GRAY @ canvas.mean())
    jitter.apply(canvas, np.random.default_rng(0))
    assert (canvas.tensor().float() - gray).abs().max() <= 1


def test_changes_in_succession_are_one_pass(monkeypatch):
    calls = []
    true = cv2.transform
    monkeypatch.setattr(canvas_module.cv2, "transform", lambda *a: calls.append(1) or true(*a))
    steps = {"color": ColorJitter(0.3, 0.3, 0.3), "hue": ColorJitter(hue=0.1)}
    Compose(steps)(torch.from_numpy(muted()).permute(2, 0, 1), 0)
    assert calls == [1]


def test_jitter_draws_all_of_its_range():
    x = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    values = [int(Compose({"b": ColorJitter(brightness=0.5)})(x, seed).max()) for seed in range(200)]
    assert min(values) < 60
    assert max(values) > 140
    assert Compose({"nothing": ColorJitter()})(x, 0).equal(x)


def test_noise_is_normal_with_the_sigma_asked_for():
    gray = torch.full((3, 100, 100), 128, dtype=torch.uint8)
    noise = (Compose({"noise": GaussianNoise(sigma=0.1)})(gray, 0).double() - 128).flatten()
    assert noise.std().item() == pytest.approx(25.5, rel=0.02)
    assert abs(noise.mean().item()) < 0.5
    assert ((noise.abs() > 2 * 25.5).double().mean().item()) == pytest.approx(0.0455, abs=0.006)
    assert noise.abs().max() > 3.3 * 25.5
    neighbours = torch.corrcoef(torch.stack([noise[:-1], noise[1:]]))[0, 1]
    assert abs(neighbours) < 0.02
    shifted = Compose({"noise": GaussianNoise(mean=0.2, sigma=0.0)})(gray, 0)
    assert shifted.unique().tolist() == [128 + 51]


def test_erasing_paints_one_box_of_the_size_drawn():
    black = torch.zeros(3, 60, 80, dtype=torch.uint8)
    shares = []
    for seed in range(200):
        erased = Compose({"e": RandomErasing(1.0, scale=(0.05, 0.2), value=(1, 2, 3))})(black, seed)
        shares.append((erased[0] == 1).double().mean().item())
        rows, columns = (erased[0] == 1).any(1).nonzero(), (erased[0] == 1).any(0).nonzero()
        box = erased[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert torch.equal(box, torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None].expand_as(box))
    assert 0.04 < min(shares) < 0.07
    assert 0.18 < max(shares) < 0.21
    assert black.sum() == 0
    assert Compose({"e": RandomErasing(0.0)})(black, 0).equal(black)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: ColorJitter(brightness=-1), "brightness"),
        (lambda: ColorJitter(hue=0.7), "hue"),
        (lambda: ColorJitter(contrast=(2, 1)), "contrast"),
        (lambda: GaussianNoise(sigma=-0.1), "sigma"),
        (lambda: RandomErasing(2), "p must"),
        (lambda: RandomErasing(value="random"), "value"),
    ],
)
def test_wrong_arguments_are_named(build, word):
    with pytest.raises(ValueError, match=word):
        build()
