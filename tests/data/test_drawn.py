"""Images that are made elsewhere are those that the canvas makes, within a grey level in the mean."""

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from torch.utils.data._utils.pin_memory import pin_memory

from tlab.command import compose
from tlab.data import drawn as drawn_module
from tlab.data.chain import Chain
from tlab.data.color import ColorJitter, GaussianNoise, RandomErasing
from tlab.data.dataset import Batch, ImageDataset, Mixing
from tlab.data.demo_scene import draw_scene
from tlab.data.drawn import DrawnBatch, images, pack
from tlab.data.index import folder_index
from tlab.data.loader import finished, make_loader
from tlab.data.order import EpochSampler, Key
from tlab.data.transforms import evaluation_transform
from tlab.data.warp import RandomAffine, RandomCrop, RandomHorizontalFlip, RandomResizedCrop, RandomVerticalFlip

SIZE = 48
GREEN = (0, 255, 0)
BOX = RandomErasing(1.0)


@pytest.fixture(scope="module")
def photographs() -> list[torch.Tensor]:
    """Drawn scenes of several sizes and shapes, some smaller than what comes out."""
    rng = np.random.default_rng(0)
    scenes = [np.array(draw_scene("car", size, rng)) for size in (150, 150, 110, 40)]
    scenes[1], scenes[2] = scenes[1][20:120], scenes[2][:, 10:90]
    return [torch.from_numpy(scene).permute(2, 0, 1) for scene in scenes]


def made_elsewhere(chain: Chain, sources: list[torch.Tensor], seeds: list[int]) -> torch.Tensor:
    drawings = [chain.draw(x, seed).drawing() for x, seed in zip(sources, seeds, strict=True)]
    batch = pack(drawings, SIZE, torch.zeros(len(sources)), torch.arange(len(sources)))
    return images(batch)


def differences(chain: Chain, sources: list[torch.Tensor], rounds: int = 8) -> torch.Tensor:
    """Return the grey levels between both ways: images 3 S S."""
    sources = sources * rounds
    seeds = list(range(len(sources)))
    here = torch.stack([chain(x, seed) for x, seed in zip(sources, seeds, strict=True)])
    there = made_elsewhere(chain, sources, seeds)
    assert there.dtype == torch.uint8
    assert here.float().std() > 20  # there is something to see
    return (here.int() - there.int()).abs().double()


@pytest.mark.parametrize("aug", ["light", "strong", "pad_crop"])
def test_real_chains_give_the_same_pixels(photographs, aug):
    # Noise has other random numbers; without it: same boxes, flips, angles, colours and erasing
    noiseless = ["aug.transforms.noise=null"] if aug == "strong" else []
    cfg = compose([f"aug={aug}", f"data.image_size={SIZE}", "data.root=.", *noiseless])
    apart = differences(Chain(instantiate(cfg.aug.transforms, _convert_="all")), photographs)
    assert apart.mean() < 0.5
    assert apart.mean((1, 2, 3)).max() < 1
    assert apart.max() <= 5


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([RandomResizedCrop(SIZE, scale=(0.05, 0.3))], id="enlarging"),
        pytest.param([RandomCrop(SIZE, padding=6, fill=GREEN), RandomVerticalFlip()], id="margin"),
        pytest.param([RandomCrop(SIZE, padding=6, padding_mode="reflect")], id="reflection"),
        pytest.param([RandomResizedCrop(SIZE), RandomAffine(40, fill=GREEN, scale=(0.5, 0.7))], id="fill shows"),
        pytest.param([RandomAffine(40, fill=GREEN), RandomResizedCrop(SIZE)], id="crop of what was turned"),
        pytest.param(
            [RandomResizedCrop(SIZE), RandomAffine(30, fill=GREEN), RandomAffine(30, fill=0)], id="two fills"
        ),
        pytest.param([RandomResizedCrop(SIZE), RandomErasing(1.0), RandomHorizontalFlip(1.0)], id="box, then flip"),
        pytest.param(
            [RandomResizedCrop(SIZE), ColorJitter(0.4, 0.4, 0.4), RandomAffine(20, fill=GREEN)],
            id="colours, then warp",
        ),
        pytest.param(
            [RandomResizedCrop(SIZE), RandomErasing(1.0), ColorJitter(0.3, contrast=(0.5, 1.5))],
            id="box, then colours",
        ),
        pytest.param(
            [RandomResizedCrop(SIZE), RandomErasing(1.0, value=GREEN), RandomErasing(1.0)], id="two boxes"
        ),
        pytest.param(
            [RandomResizedCrop(SIZE), ColorJitter(contrast=(0.2, 2.0)), ColorJitter(0.5, (0.2, 2.0), hue=0.3)],
            id="contrast of contrast",
        ),
    ],
)
def test_any_order_of_steps_gives_the_same_pixels(photographs, steps):
    apart = differences(Chain(dict(enumerate(steps))), photographs)
    assert apart.mean() < 0.7
    # Values that are clipped between two steps here and not there, and edges of what lies outside, may be far apart
    assert apart.quantile(0.999) <= 6


def test_steps_after_noise_draw_the_same(photographs):
    quiet = GaussianNoise(sigma=0.0)
    steps = [RandomResizedCrop(SIZE), quiet, ColorJitter(0.5, 0.5, 0.5), quiet, RandomErasing(1.0)]
    assert differences(Chain(dict(enumerate(steps))), photographs).mean() < 0.7


def test_noise_is_normal_and_a_function_of_the_seed():
    gray = [torch.full((3, SIZE, SIZE), 128, dtype=torch.uint8)] * 3
    chain = Chain({"noise": GaussianNoise(sigma=0.1)})
    x = made_elsewhere(chain, gray, [1, 2, 1])
    assert torch.equal(x[0], x[2])
    assert not torch.equal(x[0], x[1])
    assert torch.equal(made_elsewhere(chain, gray[:1], [2])[0], x[1])  # whatever else is in the batch
    noise = x[:2].double() - 128
    assert noise.std().item() == pytest.approx(25.5, rel=0.03)
    assert abs(noise.mean().item()) < 0.6


def test_pieces_of_a_batch_are_made_as_the_whole(photographs, monkeypatch):
    steps = [RandomResizedCrop(SIZE), RandomAffine(20, fill=GREEN), ColorJitter(0.4, 0.4), GaussianNoise(), BOX]
    chain, seeds = Chain(dict(enumerate(steps))), list(range(12))
    whole = made_elsewhere(chain, photographs * 3, seeds)
    monkeypatch.setattr(drawn_module, "PIECE", 5)
    assert torch.equal(made_elsewhere(chain, photographs * 3, seeds), whole)


def test_making_images_leaves_the_random_state_alone(photographs):
    before = torch.default_generator.get_state()
    made_elsewhere(Chain({"crop": RandomResizedCrop(SIZE), "noise": GaussianNoise()}), photographs, [0, 1, 2, 3])
    assert torch.equal(torch.default_generator.get_state(), before)


@pytest.fixture
def samples(make_folder):
    return folder_index(make_folder({"a": 12, "b": 9, "c": 6})).splits["train"]


def dataset(samples, **options):
    augment = {"crop": RandomResizedCrop(SIZE, scale=(0.3, 1.0)), "flip": RandomHorizontalFlip()}
    options = {"augment": augment, "num_classes": 3, "seed": 1} | options
    return ImageDataset(samples, finish=evaluation_transform(SIZE), image_size=SIZE, **options)


def both_ways(data: ImageDataset, keys: list[Key]) -> tuple[Batch, Batch]:
    drawn = data.__getitems__([key._replace(drawn=True) for key in keys])
    assert isinstance(drawn, DrawnBatch)
    plain = data.__getitems__(keys)
    assert isinstance(plain, Batch)
    return plain, finished(drawn)


@pytest.mark.parametrize(
    "mixing", [None, Mixing(mixup_alpha=1.0), Mixing(cutmix_alpha=1.0), Mixing(0.4, 1.0, p=0.7)], ids=str
)
@pytest.mark.parametrize("balanced", [False, True])
def test_batches_are_the_same_with_and_without_mixing(samples, mixing, balanced):
    order = EpochSampler([s.label for s in samples], seed=1, balanced=balanced).keys(3)
    for keys in (order[:10], order[10:]):
        plain, made = both_ways(dataset(samples, mixing=mixing), keys)
        assert torch.equal(made.label, plain.label)
        assert torch.equal(made.index, plain.index)
        assert (made.image.shape, made.image.dtype) == (plain.image.shape, torch.uint8)
        assert (made.image.int() - plain.image.int()).abs().max() <= 3


def test_image_that_no_step_brings_to_size_is_finished(samples):
    data = dataset(samples, augment={"flip": RandomHorizontalFlip(), "affine": RandomAffine(20)})
    plain, made = both_ways(data, [Key(0, index) for index in range(6)])
    assert torch.equal(made.image, plain.image)


def test_chain_with_a_step_of_others_is_not_drawn(samples):
    data = dataset(samples, augment={"crop": RandomResizedCrop(SIZE), "other": lambda x: 255 - x})
    assert not data.can_draw("")
    assert isinstance(data.__getitems__([Key(0, 0, drawn=True)]), Batch)
    assert not dataset(samples, augment={}).can_draw("")


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_makes_what_was_drawn_in_its_own_iteration_only(samples, workers):
    data = dataset(samples)
    sampler = EpochSampler([s.label for s in samples], seed=1, batch_size=8)
    loader = make_loader(data, sampler, 8, workers)
    plain = list(loader)
    loader.draws = True
    made = list(loader)
    assert not any(key.drawn for key in sampler)
    assert len(made) == len(plain) > 2
    for a, b in zip(made, plain, strict=True):
        assert type(a) is Batch
        assert torch.equal(a.index, b.index)
        apart = (a.image.int() - b.image.int()).abs()
        assert 0 < apart.double().mean() < 0.5  # they were drawn
        assert apart.max() <= 3


def test_vanished_file_is_named_as_ever(samples):
    samples[0].path.unlink()
    answer = dataset(samples).__getitems__([Key(0, 1, drawn=True), Key(0, 0, drawn=True)])
    assert "no such file" in str(answer)


def test_drawn_batch_outlasts_pinning(samples, monkeypatch):
    """torch's loader pins what a batch holds, and rebuilds it; without a GPU nothing can be pinned here."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x, *_: x.clone())
    data = dataset(
        samples, mixing=Mixing(0.4, 1.0), augment={"crop": RandomResizedCrop(SIZE), "n": GaussianNoise()}
    )
    drawn = data.__getitems__([key._replace(drawn=True) for key in keys_of(samples)])
    pinned = pin_memory(drawn)
    assert isinstance(pinned, DrawnBatch)
    assert torch.equal(finished(pinned).image, finished(drawn).image)


def keys_of(samples) -> list[Key]:
    return EpochSampler([sample.label for sample in samples], seed=1).keys(0)
