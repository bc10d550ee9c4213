"""The exported graph sees the pixels that evaluation sees."""

import pytest
import torch

from tlab.data.augment.evaluation import evaluation_transform
from tlab.exporting.preprocessing import Preprocessing

SIZES = [(1, 1), (1, 300), (300, 1), (2, 3), (3, 900), (32, 32), (37, 41), (37, 37), (73, 73), (64, 65), (110, 146)]
SIZES += [(500, 333), (627, 506), (656, 210), (363, 445), (901, 700)]


@pytest.mark.parametrize(
    ("resize", "size", "fraction"), [("crop", 96, 0.875), ("crop", 33, 1.0), ("pad", 96, 0.875), ("pad", 31, 0.875)]
)
def test_pixels_are_those_of_evaluation(resize, size, fraction):
    square = evaluation_transform(size, resize, fraction)
    preprocessing = Preprocessing(square)
    generator = torch.Generator().manual_seed(0)
    other = 0
    for height, width in SIZES:
        x = torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8)
        ours = torch.stack([square(each) for each in x])
        theirs = preprocessing(x)
        assert theirs.dtype == torch.uint8
        difference = (ours.int() - theirs.int()).abs()
        assert difference.max() <= 1, (height, width)
        other += int(difference.sum())
    assert other <= 1e-4 * len(SIZES) * 2 * 3 * size**2  # sums of integers that float32 cannot hold
