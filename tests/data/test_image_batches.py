import random

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from tlab.core.errors import UserError
from tlab.data.augment.evaluation import evaluation_transform
from tlab.data.augment.mixup import Mixing
from tlab.data.image_batches import ImageBatches
from tlab.data.sampler import EpochSampler, SampleKey
from tlab.data.sources.folder import folder_index

SIZE = 16


class GlobalRandomNoise:
    """A third party's transform that draws from Python's and NumPy's generators."""

    def __call__(self, x):
        return (x.int() + random.randrange(50) - np.random.randint(50)).clamp(0, 255).to(torch.uint8)


def augment():
    return {
        "crop": v2.RandomResizedCrop(SIZE, scale=(0.3, 1.0), antialias=True),
        "off": None,
        "flip": v2.RandomHorizontalFlip(),
        "color": v2.ColorJitter(0.4, 0.4, 0.4),
        "noise": GlobalRandomNoise(),
    }


@pytest.fixture
def samples(make_folder):
    return folder_index(make_folder({"a": 12, "b": 9, "c": 6})).splits["train"]


def dataset(samples, **options):
    options = {"augment": augment(), "num_classes": 3, "seed": 1} | options
    return ImageBatches(samples, finish=evaluation_transform(SIZE), image_size=SIZE, **options)


def keys(samples, epoch=0, **options):
    return EpochSampler([s.label for s in samples], seed=1, **options).keys(epoch)


def in_batches(data, order, size):
    batches = [data.batch(order[i : i + size]) for i in range(0, len(order), size)]
    return [torch.cat(parts) for parts in zip(*(batch[:3] for batch in batches), strict=True)]


def test_batch_has_the_promised_types(samples):
    batch = dataset(samples).batch([SampleKey(0, 3), SampleKey(0, 0)])
    assert (batch.image.shape, batch.image.dtype) == ((2, 3, SIZE, SIZE), torch.uint8)
    assert batch.image.is_contiguous()
    assert (batch.label.dtype, batch.label.tolist()) == (torch.int64, [samples[3].label, samples[0].label])
    assert (batch.index.dtype, batch.index.tolist()) == (torch.int64, [3, 0])


@pytest.mark.parametrize("mixing", [None, Mixing(0.4, 1.0, p=0.8)])
def test_pixels_do_not_depend_on_the_batch(samples, mixing):
    order = keys(samples)
    reference = in_batches(dataset(samples, mixing=mixing), order, len(order))
    for size in (1, 4, 7):
        for got, wanted in zip(in_batches(dataset(samples, mixing=mixing), order, size), reference, strict=True):
            assert torch.equal(got, wanted)


def test_augmentation_is_a_function_of_seed_epoch_and_index(samples):
    def image(epoch=0, index=2, draw=0, seed=1):
        return dataset(samples, seed=seed).batch([SampleKey(epoch, index, draw)]).image

    assert torch.equal(image(), image())
    for other in (image(epoch=1), image(draw=1), image(seed=2), image(index=3)):
        assert not torch.equal(image(), other)


def test_random_state_of_the_process_is_untouched(samples):
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    expected = (torch.rand(3), random.random(), np.random.rand())
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    dataset(samples, mixing=Mixing(0.4, 1.0)).batch(keys(samples))
    assert torch.equal(torch.rand(3), expected[0])
    assert (random.random(), np.random.rand()) == expected[1:]


def test_noise_from_a_global_generator_is_another_for_each_image_and_epoch(samples):
    data = dataset(samples, augment={"noise": GlobalRandomNoise()})
    shifts = set()
    for epoch in range(4):
        for index in range(4):
            torch.rand(1), random.random(), np.random.rand()  # whatever a program draws meanwhile
            key = SampleKey(epoch, index)
            image = data.batch([key]).image.int()
            assert torch.equal(image, data.batch([SampleKey(epoch, 5), key]).image[1:].int())
            shifts.add(float((image - dataset(samples, augment=None).batch([key]).image).float().mean()))
    assert len(shifts) > 12


def test_without_augmentation_epochs_are_alike_and_as_evaluation_sees_them(samples):
    data, plain = dataset(samples, augment={"crop": None}), dataset(samples, augment=None)
    assert torch.equal(data.batch([SampleKey(0, 1)]).image, data.batch([SampleKey(7, 1)]).image)
    assert torch.equal(data.batch([SampleKey(0, 1)]).image, plain.batch([SampleKey(0, 1)]).image)


@pytest.mark.parametrize(
    "steps",
    [
        {"flip": v2.RandomHorizontalFlip()},
        {"gray": v2.Grayscale(1)},
        {"float": v2.ToDtype(torch.float32, scale=True)},
    ],
)
def test_any_augmentation_ends_at_the_size_and_type_of_the_batch(samples, steps):
    image = dataset(samples, augment=steps).batch([SampleKey(0, 0)]).image
    assert (image.shape, image.dtype) == ((1, 3, SIZE, SIZE), torch.uint8)
    if "float" in steps:
        assert torch.equal(image, dataset(samples, augment=None).batch([SampleKey(0, 0)]).image)


def test_augmentation_that_returns_no_image_is_named(samples):
    with pytest.raises(UserError, match=r"aug\.transforms\.wrong"):
        dataset(samples, augment={"wrong": lambda x: x.float().mean()}).batch([SampleKey(0, 0)])


def test_file_that_vanished_is_named(samples):
    samples[0].path.unlink()
    with pytest.raises(UserError, match=rf"{samples[0].path}.*no such file"):
        dataset(samples).batch([SampleKey(0, 0)])


def test_mixup_blends_pixels_and_labels_of_the_next_in_order(samples):
    order = keys(samples)
    plain, mixed = dataset(samples), dataset(samples, mixing=Mixing(mixup_alpha=1.0))
    batch = mixed.batch(order)
    assert batch.label.shape == (len(order), 3)
    assert torch.allclose(batch.label.sum(1), torch.ones(len(order)))
    pure = {key.index: plain.batch([SampleKey(0, key.index)]).image[0].float() for key in order}
    different = 0
    for image, label, key in zip(batch.image, batch.label, order, strict=True):
        own, other = samples[key.index].label, samples[key.partner].label
        if own == other:
            assert label[own] == 1
            continue
        different += 1
        blend = label[own] * pure[key.index] + label[other] * pure[key.partner]
        assert (image.float() - blend).abs().max() <= 0.51
    assert different > 5
    assert mixed.batch(order[:1]).image.equal(batch.image[:1])


def test_cutmix_pastes_a_box_and_weights_by_what_is_left():
    image, partner = torch.zeros(3, 20, 30, dtype=torch.uint8), torch.full((3, 20, 30), 255, dtype=torch.uint8)
    weights = []
    for seed in range(200):
        pasted, weight = Mixing(cutmix_alpha=1.0).mix(image, partner, seed)
        assert set(pasted.unique().tolist()) <= {0, 255}
        assert weight == pytest.approx((pasted == 0).float().mean().item(), abs=1e-6)
        rows, columns = (pasted[0] == 255).any(1).nonzero(), (pasted[0] == 255).any(0).nonzero()
        if len(rows):  # what is pasted is one full box
            box = pasted[0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert (box == 255).all()
        weights.append(weight)
    assert image.sum() == 0
    assert 0.4 < sum(weights) / 200 < 0.85
    assert len(set(weights)) > 100


def test_mixup_weights_follow_the_beta_distribution():
    image, partner = torch.zeros(1, 1, 1, dtype=torch.uint8), torch.ones(1, 1, 1, dtype=torch.uint8)
    weights = torch.tensor([Mixing(mixup_alpha=0.4).mix(image, partner, seed)[1] for seed in range(4000)])
    assert weights.mean().item() == pytest.approx(0.5, abs=0.02)
    # Beta(a, a) has the variance 1 / (4 (2a + 1))
    assert weights.var().item() == pytest.approx(1 / (4 * 1.8), abs=0.01)


def test_probability_and_choice_of_mixing():
    image, partner = torch.zeros(3, 8, 8, dtype=torch.uint8), torch.full((3, 8, 8), 255, dtype=torch.uint8)
    weights = [Mixing(1.0, 1.0, p=0.3).mix(image, partner, seed)[1] for seed in range(1000)]
    assert 0.25 < sum(weight < 1 for weight in weights) / 1000 < 0.35
    kinds = [len(Mixing(1.0, 1.0).mix(image, partner, seed)[0].unique()) for seed in range(400)]
    assert kinds.count(2) > 100  # boxes
    assert kinds.count(1) > 100  # blends


@pytest.mark.parametrize("mixing", [Mixing(), Mixing(1.0, 1.0, p=0.0)])
def test_mixing_that_is_off_leaves_whole_labels(samples, mixing):
    assert dataset(samples, mixing=mixing).batch(keys(samples)[:1]).label.dtype == torch.int64


@pytest.mark.parametrize("options", [{"mixup_alpha": -1.0}, {"p": 1.5}])
def test_mixing_out_of_range(options):
    with pytest.raises(UserError, match=r"aug\.mix"):
        Mixing(**options)


def test_each_image_is_decoded_once_per_batch(samples, monkeypatch):
    from tlab.data import image_batches as module

    seen = []
    true = module.decode
    monkeypatch.setattr(module, "decode", lambda path, *rest: seen.append(path) or true(path, *rest))
    order = keys(samples)[:6]
    dataset(samples, mixing=Mixing(1.0)).batch(order)
    assert len(seen) == len(set(seen)) == 7  # six, and the partner of the last
