"""tlab's steps and anybody else's in one list."""

import random

import numpy as np
import torch
from pictures import picture
from torchvision.transforms import v2

from tlab.data.augment.color import ColorJitter
from tlab.data.augment.compose import Compose, RandomApply
from tlab.data.augment.evaluation import ResizeCrop
from tlab.data.augment.geometry import RandomAffine, RandomHorizontalFlip, RandomResizedCrop


def image() -> torch.Tensor:
    return torch.from_numpy(np.array(picture(0, (60, 48)))).permute(2, 0, 1)


def test_foreign_steps_stand_anywhere():
    steps = {
        "invert": v2.RandomInvert(p=1.0),
        "crop": RandomResizedCrop(24),
        "float": v2.ToDtype(torch.float32, scale=True),
        "blur": RandomApply(v2.GaussianBlur(3), 1.0),
        "byte": v2.ToDtype(torch.uint8, scale=True),
        "flip": RandomApply(RandomHorizontalFlip(1.0), 0.5),
        "gray": v2.Grayscale(1),
        "color": ColorJitter(0.2),
        "out": v2.RandomErasing(1.0, inplace=True),
    }
    x = image()
    results = [Compose(steps)(x, seed) for seed in range(6)]
    assert all(result.shape == (3, 24, 24) and result.dtype == torch.uint8 for result in results)
    assert len({result.numpy().tobytes() for result in results}) == 6
    torch.manual_seed(99)
    assert torch.equal(Compose(steps)(x, 3), results[3])
    assert torch.equal(x, image())


def test_global_generators_are_left_alone_where_nobody_draws_from_them():
    chain = Compose(
        {"size": ResizeCrop(24), "crop": RandomResizedCrop(24), "turn": RandomApply(RandomAffine(9), 0.5)}
    )
    before = torch.default_generator.get_state(), random.getstate()
    chain(image(), 1)
    assert torch.equal(torch.default_generator.get_state(), before[0])
    assert random.getstate() == before[1]


def test_a_step_alone_is_a_transform_under_torchs_seed():
    pipeline = v2.Compose([RandomResizedCrop(24), v2.RandomInvert(), RandomHorizontalFlip()])
    views = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        views.append(pipeline(image()))
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_sometimes_follows_its_probability_on_a_canvas():
    x = image()
    flips = Compose({"flip": RandomApply(RandomHorizontalFlip(1.0), 0.3)})
    assert 60 < sum(not torch.equal(flips(x, seed), x) for seed in range(300)) < 120
