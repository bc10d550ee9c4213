"""Every file of conf/aug composes, builds, and does to an image only what the seed says."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from tlab.data.augment.evaluation import evaluation_transform

CONF = Path(__file__).parents[2] / "conf"
CHOICES = sorted(path.stem for path in (CONF / "aug").glob("*.yaml"))
SIZE = 48
ODD_SIZES = [(1, 1), (1, 4000), (4000, 1), (3, 90), (96, 96), (375, 500)]
# A stand-in for conf/train.yaml with only what an augmentation may refer to.
BASE = "data: {image_size: 48, resize: crop}\ndefaults: [_self_, {aug: none}]\nhydra: {searchpath: ['file://%s']}\n"


@pytest.fixture
def transforms_of(tmp_path):
    """Compose `aug=<choice>`, from conf/ or from the test's own folder, and build its transforms."""
    (tmp_path / "main.yaml").write_text(BASE % CONF)

    def build(choice: str, *overrides: str) -> dict:
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            cfg = compose("main", overrides=[f"aug={choice}", *overrides])
        return instantiate(cfg.aug.transforms, _convert_="all")

    return build


def apply(transforms: dict, image: torch.Tensor, seed: int) -> torch.Tensor:
    """What the data set does: the named transforms in order, then the evaluation resize where needed."""
    torch.manual_seed(seed)
    for transform in transforms.values():
        image = image if transform is None else transform(image)
    return image if image.shape[-2:] == (SIZE, SIZE) else evaluation_transform(SIZE)(image)


def picture(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def test_the_promised_choices_are_there():
    assert {"none", "light", "strong", "randaugment", "trivialaugment", "pad_crop"} <= set(CHOICES)


@pytest.mark.parametrize("choice", CHOICES)
def test_first_line_says_when_to_choose_it(choice):
    assert (CONF / "aug" / f"{choice}.yaml").read_text().startswith(f"# Choose {choice} ")


@pytest.mark.parametrize("choice", CHOICES)
def test_any_image_becomes_the_square_as_the_seed_says(choice, transforms_of):
    transforms = transforms_of(choice)
    for size in ODD_SIZES:
        for seed in range(4):
            image = apply(transforms, picture(*size), seed)
            assert image.shape == (3, SIZE, SIZE)
            assert image.dtype == torch.uint8
            assert torch.equal(image, apply(transforms, picture(*size), seed)), "not a function of the seed"
    views = {apply(transforms, picture(96, 96), seed).numpy().tobytes() for seed in range(8)}
    assert len(views) == 1 if choice == "none" else len(views) > 4


@pytest.mark.parametrize("choice", CHOICES)
def test_the_image_given_is_left_as_it_was(choice, transforms_of):
    transforms, image = transforms_of(choice), picture(SIZE, SIZE)
    for seed in range(10):
        apply(transforms, image, seed)
    assert torch.equal(image, picture(SIZE, SIZE))


@pytest.mark.parametrize("choice", CHOICES)
def test_each_transform_can_be_switched_off(choice, transforms_of):
    for name in transforms_of(choice):
        transforms = transforms_of(choice, f"aug.transforms.{name}=null")
        assert transforms[name] is None
        assert apply(transforms, picture(60, 80), 0).shape == (3, SIZE, SIZE)


@pytest.mark.parametrize("choice", CHOICES)
def test_mixing_is_off_until_an_alpha_is_given(choice, tmp_path):
    (tmp_path / "main.yaml").write_text(BASE % CONF)
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        mix = compose("main", overrides=[f"aug={choice}"]).aug.mix
        assert (mix.mixup_alpha, mix.cutmix_alpha) == (0, 0)
        assert compose("main", overrides=[f"aug={choice}", "aug.mix.mixup_alpha=0.2"]).aug.mix.mixup_alpha == 0.2


def test_parameters_are_keys_down_to_nested_ones(transforms_of):
    noise = transforms_of("strong", "aug.transforms.noise.p=1", "aug.transforms.noise.transform.sigma=0.2")["noise"]
    gray = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    assert noise(gray).float().std().item() == pytest.approx(0.2 * 255, rel=0.05)
    crop = transforms_of("light", "aug.transforms.crop.scale=[0.9,1]")["crop"]
    assert list(crop.scale) == [0.9, 1]


def test_strong_paints_borders_and_erased_boxes_in_the_mean_color(transforms_of):
    white = torch.full((3, SIZE, SIZE), 255, dtype=torch.uint8)
    mean = torch.tensor([124, 116, 104], dtype=torch.uint8)
    torch.manual_seed(0)
    transforms = transforms_of("strong", "aug.transforms.erasing.p=1", "aug.transforms.affine.degrees=[15,15]")
    assert torch.equal(transforms["affine"](white)[:, 0, 0], mean)
    erased = transforms["erasing"](white)
    assert set(map(tuple, erased.flatten(1).T.tolist())) == {(255, 255, 255), (124, 116, 104)}


def test_a_users_own_file_in_another_folder(transforms_of, tmp_path):
    (tmp_path / "aug").mkdir()
    (tmp_path / "aug" / "mirror.yaml").write_text(
        "transforms:\n  flip: {_target_: torchvision.transforms.v2.RandomHorizontalFlip, p: 1.0}\n"
    )
    image = picture(SIZE, SIZE)
    assert torch.equal(apply(transforms_of("mirror"), image, 0), image.flip(-1))
