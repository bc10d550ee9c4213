"""Crops, flips and warps give torchvision's pixels, and several of them are one warp."""

import cv2
import numpy as np
import pytest
import torch
from pictures import picture
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from tlab.data.augment import lazy_image as canvas_module
from tlab.data.augment.compose import Compose
from tlab.data.augment.geometry import (
    RandomAffine,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomVerticalFlip,
    affine_matrix,
)
from tlab.data.augment.lazy_image import LazyImage

FILL = (124, 116, 104)


def image(height: int = 75, width: int = 100, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.array(picture(seed, (width, height)))).permute(2, 0, 1)


def canvas_of(x: torch.Tensor) -> LazyImage:
    return LazyImage(np.ascontiguousarray(x.permute(1, 2, 0).numpy()))


@pytest.mark.parametrize("box", [(5, 7, 60, 70), (0, 0, 20, 30), (10, 50, 33, 33), (3, 4, 40, 10)])
@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_flip_are_torchvisions_pixel_by_pixel(box, flip):
    x, canvas = image(), canvas_of(image())
    canvas.crop(*box, size=(33, 33))
    expected = TF.resized_crop(x, *box, [33, 33], antialias=True)
    if flip:
        canvas.flip(horizontal=True)
        canvas.flip(vertical=True)
        expected = expected.flip(-1, -2)
    assert torch.equal(canvas.tensor(), expected)


@pytest.mark.parametrize(
    ("angle", "shift", "scale", "shear"),
    [
        (15, (0, 0), 1, (0, 0)),
        (-40, (0, 0), 1, (8, 0)),
        (10, (5, -3), 1.3, (0, 0)),
        (0, (0, 0), 1, (-8, 5)),
        (90, (0, 0), 1, (0, 0)),
    ],
)
def test_affine_is_torchvisions(angle, shift, scale, shear):
    x, canvas = image(), canvas_of(image())
    canvas.warp(affine_matrix(canvas.size, angle, shift, scale, shear), FILL)
    options = {"interpolation": v2.InterpolationMode.BILINEAR, "fill": list(FILL)}
    expected = TF.affine(x, angle, list(shift), scale, list(shear), **options)
    white, shown = torch.full_like(x, 255), canvas_of(torch.full_like(x, 255))
    shown.warp(affine_matrix(shown.size, angle, shift, scale, shear), (0, 0, 0))
    theirs = TF.affine(white, angle, list(shift), scale, list(shear), **options | {"fill": 0})
    # On the border between the two torchvision mixes the colour in twice
    inside, outside = torch.minimum(shown.tensor(), theirs) == 255, torch.maximum(shown.tensor(), theirs) == 0
    difference = (canvas.tensor().int() - expected.int()).abs()
    assert difference[inside].max() <= 6  # cv2 rounds places to 1/32 of a pixel
    assert difference[inside].float().mean() < 0.3
    assert not difference[outside].any()


def test_a_warp_that_shrinks_has_no_aliasing():
    stripes = torch.zeros(3, 120, 120, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    canvas = canvas_of(stripes)
    canvas.warp(affine_matrix(canvas.size, 20, (0, 0), 0.4, (0, 0)), FILL)
    middle = canvas.tensor()[:, 50:70, 50:70].int()
    assert (middle - 127).abs().max() < 25  # bilinear alone gives the stripes' moire, 0 to 255


def test_steps_in_succession_are_one_warp(monkeypatch):
    calls = []
    true = cv2.warpAffine
    monkeypatch.setattr(canvas_module.cv2, "warpAffine", lambda *a, **k: calls.append(1) or true(*a, **k))
    monkeypatch.setattr(canvas_module, "resized", lambda x, size: calls.append(0) or x[: size[0], : size[1]])
    steps = {
        "crop": RandomResizedCrop(64, scale=(0.1, 0.2)),
        "flip": RandomHorizontalFlip(1.0),
        "turn": RandomAffine(15, fill=FILL),
        "shear": RandomAffine(0, shear=8, fill=FILL),
    }
    assert Compose(steps)(image(), 3).shape == (3, 64, 64)
    assert calls.count(1) == 1


def test_one_warp_shows_what_the_single_steps_show():
    x = image(150, 200)
    for seed in range(10):
        angle, box = seed * 4 - 20, (5 + seed, 10, 100, 120)
        one, stepwise = canvas_of(x), canvas_of(x)
        for canvas in (one, stepwise):
            canvas.crop(*box, size=(64, 64))
            canvas.pixels() if canvas is stepwise else None
            canvas.flip(horizontal=True)
            canvas.pixels() if canvas is stepwise else None
            canvas.warp(affine_matrix((64, 64), angle), FILL)
        difference = (one.tensor().int() - stepwise.tensor().int()).abs().float()
        assert difference.mean() < 1.5
        # What lies outside the crop is painted, not looked up in the image
        corner = one.tensor()[:, 0, 0]
        assert angle == 0 or torch.equal(corner, torch.tensor(FILL, dtype=torch.uint8)) or abs(angle) < 8


def test_what_a_crop_cut_away_does_not_come_back():
    x = torch.zeros(3, 60, 60, dtype=torch.uint8)
    x[:, 20:40, 20:40] = 255
    canvas = canvas_of(x)
    canvas.warp(affine_matrix((60, 60), 45), FILL)
    canvas.crop(25, 25, 10, 10, size=(10, 10))  # white only
    canvas.warp(affine_matrix((10, 10), 0, scale=0.5), (0, 0, 255))
    shown = {tuple(pixel) for pixel in canvas.tensor().flatten(1).T.tolist()}
    assert (0, 0, 255) in shown
    assert not any(pixel[0] == 0 and pixel[2] < 200 for pixel in shown)  # nothing of the black around


def test_pad_and_crop_is_torchvisions(monkeypatch):
    x = image(32, 32)
    padded = TF.pad(x, [4, 4, 4, 4], fill=list(FILL))
    crop = RandomCrop(32, padding=4, fill=FILL)
    places = [padded[:, i : i + 32, j : j + 32] for i in range(9) for j in range(9)]
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        got = crop(x)
        where = [number for number, place in enumerate(places) if torch.equal(place, got)]
        assert where
        seen.add(where[0])
    assert len(seen) > 20
    assert RandomCrop(40)(x).shape == (3, 40, 40)
    assert RandomCrop((8, 12), padding=(1, 2))(x).shape == (3, 8, 12)


def test_boxes_are_drawn_as_torchvision_draws_them():
    """Sizes and places of 3,000 boxes of both have the same mean and spread."""
    height, width, options = 375, 500, {"scale": (0.3, 1.0), "ratio": (0.75, 1.3333)}
    ours, theirs = RandomResizedCrop(224, **options), v2.RandomResizedCrop(224, **options)
    draws = np.random.default_rng(0)
    torch.manual_seed(0)
    own = np.array([ours._box(height, width, draws) for _ in range(3000)], float)
    other = np.array(
        [
            [p[k] for k in ("top", "left", "height", "width")]
            for p in (theirs.make_params([torch.empty(3, height, width)]) for _ in range(3000))
        ],
        float,
    )
    np.testing.assert_allclose(own.mean(0), other.mean(0), atol=6)
    np.testing.assert_allclose(own.std(0), other.std(0), atol=6)


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (3, 90), (2, 2)])
def test_odd_sizes(size):
    steps = {"crop": RandomResizedCrop(24), "turn": RandomAffine(15, (0.1, 0.1), (0.8, 1.2), 8, FILL)}
    for seed in range(20):
        assert Compose(steps)(image(*size), seed).shape == (3, 24, 24)
        assert Compose({"turn": steps["turn"]})(image(*size), seed).shape == (3, *size)


def test_very_wide_images_can_be_turned():
    assert (
        Compose({"turn": RandomAffine((1, 1))})(torch.zeros(3, 2, 40_000, dtype=torch.uint8), 0).shape[-1] == 40_000
    )


def test_flips_follow_their_probability_and_the_seed():
    x = image(4, 6)
    flips = Compose({"a": RandomHorizontalFlip(0.3), "b": RandomVerticalFlip(1.0)})
    sides = [torch.equal(flips(x, seed), x.flip(-1, -2)) for seed in range(300)]
    assert 0.2 < sum(sides) / 300 < 0.4
    assert sides == [torch.equal(flips(x, seed), x.flip(-1, -2)) for seed in range(300)]


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: RandomHorizontalFlip(1.2), "p must"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 0.2)), "scale"),
        (lambda: RandomResizedCrop(8, ratio=(0, 1)), "ratio"),
        (lambda: RandomCrop(8, padding_mode="mirror"), "mirror"),
        (lambda: RandomAffine(-3), "degrees"),
        (lambda: RandomAffine(3, shear=(1, 2, 3)), "shear"),
        (lambda: RandomAffine(3, fill=(300, 0, 0)), "fill"),
    ],
)
def test_wrong_arguments_are_named(build, word):
    with pytest.raises(ValueError, match=word):
        build()
