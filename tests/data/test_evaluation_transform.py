"""What comes out of the evaluation resize: exact sizes, the official pixels, and no memory blow-up."""

import pickle
import time

import pytest
import torch
from torchvision.transforms import v2

from tlab.data.augment.compose import RandomApply
from tlab.data.augment.evaluation import MEAN_COLOR, evaluation_transform

ODD_SIZES = [(1, 1), (1, 4000), (4000, 1), (2, 3), (3, 9), (32, 32), (31, 47), (300, 200), (33, 700)]


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("resize", ["crop", "pad"])
@pytest.mark.parametrize("size", ODD_SIZES)
@pytest.mark.parametrize("image_size", [2, 32, 65])
def test_every_size_becomes_the_square(resize, size, image_size):
    image = evaluation_transform(image_size, resize)(picture(*size))
    assert image.shape == (3, image_size, image_size)
    assert image.dtype == torch.uint8


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (64, 64), (50, 100), (40, 41)])
def test_crop_is_the_official_preset_pixel_by_pixel(size):
    official = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])
    assert torch.equal(evaluation_transform(224)(picture(*size)), official(picture(*size)))


def test_thin_image_keeps_its_centre_and_stays_small():
    stripes = torch.zeros(3, 30, 301, dtype=torch.uint8)
    stripes[:, :, 150] = 255  # the middle column
    whole = v2.Compose([v2.Resize(40, antialias=True), v2.CenterCrop(35)])(stripes).int()
    cut = evaluation_transform(35)(stripes).int()
    assert (whole - cut).abs().max() <= 2
    start = time.perf_counter()  # resized whole, the next one would have 15 million columns
    evaluation_transform(224)(torch.zeros(3, 1, 60_000, dtype=torch.uint8))
    assert time.perf_counter() - start < 1


def test_crop_fraction_one_keeps_the_whole_square():
    image = picture(48, 48)
    assert torch.equal(evaluation_transform(48, crop_fraction=1.0)(image), image)


def test_pad_keeps_the_whole_image_on_the_mean_color():
    image = evaluation_transform(40, "pad")(torch.full((3, 20, 80), 255, dtype=torch.uint8))
    assert (image[:, 15:25] == 255).all()
    for rows in (image[:, :15], image[:, 25:]):
        assert torch.equal(rows, torch.tensor(MEAN_COLOR, dtype=torch.uint8)[:, None, None].expand_as(rows))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((1,), "image_size"),
        ((8, "stretch"), "stretch"),
        ((8, "crop", 0.0), "crop_fraction"),
        ((8, "crop", 1.5), "1.5"),
    ],
)
def test_wrong_arguments_are_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        evaluation_transform(*arguments)


def test_sometimes_follows_its_probability_and_the_seed():
    def count(p: float, seed: int) -> int:
        torch.manual_seed(seed)
        invert = RandomApply(v2.RandomInvert(p=1.0), p)
        return sum(int(invert(torch.zeros(3, 1, 1, dtype=torch.uint8)).max()) == 255 for _ in range(200))

    assert count(0.0, 0) == 0
    assert count(1.0, 0) == 200
    assert 30 < count(0.3, 0) < 90
    assert count(0.3, 0) == count(0.3, 0)
    with pytest.raises(ValueError, match="p must"):
        RandomApply(v2.Identity(), 1.5)


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_transforms_travel_to_workers(resize):
    transform = evaluation_transform(16, resize)
    image = picture(20, 30)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(image), transform(image))
