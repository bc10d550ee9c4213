"""Names, cuts, sizes and layouts of backbones, and the choices in conf/backbone."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from hydra.utils import instantiate
from omegaconf import OmegaConf
from originals import images, original

from tlab.core.errors import UserError
from tlab.models.backbones import build_backbone
from tlab.models.builder_arguments import OWN
from tlab.models.stages import Pretraining, StagedBackbone
from tlab.models.staging.splitting import split

CONF = Path(__file__).parents[2] / "conf"
CHOICES = sorted(path.stem for path in (CONF / "backbone").glob("*.yaml"))
FIRST, LATER = ("conv1", "layer1", "layer2"), ("layer3", "layer4")
LAST = {
    "vgg": "fc7",
    "resnet": "layer4",
    "mobilenet": "hidden",
    "vit": "layer11",
    "convnext": "stage4",
    "effi": "conv",
}


@pytest.mark.parametrize("choice", CHOICES)
def test_each_choice_names_stages_that_exist(choice: str) -> None:
    text = (CONF / "backbone" / f"{choice}.yaml").read_text()
    conf = OmegaConf.create(text)
    for other in conf.pop("defaults", ()):
        conf = OmegaConf.merge(OmegaConf.load(CONF / "backbone" / f"{other}.yaml"), conf)
    assert text.startswith("# Choose ")
    assert conf._target_ == "tlab.models.backbones.build_backbone"
    if choice in ("torchvision", "timm"):
        assert OmegaConf.is_missing(conf, "name")
        return
    with torch.device("meta"):
        parts, _ = split(original(f"timm:{conf.name}" if conf.library == "timm" else conf.name), conf.stages)
    assert list(parts) == list(conf.stages)
    assert list(parts)[-1] == next(
        last for prefix, last in LAST.items() if conf.name.removeprefix("tf_").startswith(prefix)
    )


def test_a_choice_builds_and_runs() -> None:
    conf = OmegaConf.load(CONF / "backbone" / "mobilenet_v3_small.yaml")
    backbone = instantiate(conf, weights="bundled", image_size=64)
    assert backbone(images(64)).shape == (2, 1024)
    assert backbone.stage_shapes(64)["block2"] == (24, 8, 8)
    assert backbone.pretraining.input_size == 96


def test_from_a_stage_on_weights_are_as_random_as_without_any(tmp_path: Path) -> None:
    """Those that the seed gives, with BatchNorm's statistics; the stages before keep the weights."""
    file = tmp_path / "weights.pth"
    trained = torchvision.models.resnet18(num_classes=4).state_dict()
    trained |= {key: torch.full_like(value, 3.0) for key, value in trained.items() if "running_mean" in key}
    torch.save(trained, file)

    def built(seed: int, **options: Any) -> StagedBackbone:
        torch.manual_seed(seed)
        return build_backbone("resnet18", image_size=32, **options)

    def state(backbone: StagedBackbone, *stages: str) -> dict[str, torch.Tensor]:
        return {f"{stage}.{key}": v for stage in stages for key, v in backbone.stages[stage].state_dict().items()}

    half, other, seeded = (built(seed, weights=str(file), random_from="layer3") for seed in (0, 0, 1))
    whole, none = built(0, weights=str(file)), built(0, weights=None)
    torch.testing.assert_close(state(half, *FIRST), state(whole, *FIRST), rtol=0, atol=0)
    torch.testing.assert_close(state(half, *LATER), state(other, *LATER), rtol=0, atol=0)
    kernel = "layer3.layer3.0.conv1.weight"
    random, buffer = state(half, *LATER)[kernel], kernel.replace("conv1.weight", "bn1.running_mean")
    assert not torch.equal(random, state(seeded, *LATER)[kernel])
    assert random.std() == pytest.approx(float(state(none, *LATER)[kernel].std()), rel=0.05)
    assert (state(half, *LATER)[buffer] == 0).all()
    assert half.pretraining.digest == other.pretraining.digest != seeded.pretraining.digest
    assert half.pretraining.description == f"{whole.pretraining.description}, random from layer3 on"
    assert half.pretraining.classifier_weight is None
    assert whole.pretraining.classifier_weight is not None


@pytest.mark.parametrize(("upto", "shape"), [("conv1", (64, 8, 8)), ("layer2", (128, 4, 4)), (None, (512, 1, 1))])
def test_upto_cuts(upto: str | None, shape: tuple[int, ...]) -> None:
    backbone = build_backbone("resnet18", weights=None, upto=upto, image_size=32)
    assert backbone(images(32)).shape == (2, *shape)
    assert backbone.feature_dim == shape[0]
    assert backbone.stage_names[-1] == (upto or "layer4")


def test_a_chain_may_stop_and_go_on(resnet: StagedBackbone) -> None:
    resnet.eval()
    x = images(32)
    middle = resnet.forward_stages(x, stop="layer2")
    assert torch.equal(resnet.forward_stages(middle, start="layer3"), resnet(x))


def test_maps_with_channels_last_inside_come_out_with_channels_first() -> None:
    swin = torchvision.models.SwinTransformer([4, 4], 24, [1, 1], [2, 4], [4, 4], num_classes=5)
    parts, _ = split(swin)
    whole = StagedBackbone(parts, Pretraining(), 64)
    cut = StagedBackbone({name: parts[name] for name in list(parts)[:2]}, Pretraining(), 64)
    assert whole.stage_shapes(64)["features_1"] == (16, 16, 24)
    assert whole(images(64)).shape == (2, 48, 8, 8)
    assert cut(images(64)).shape == (2, 24, 16, 16)
    assert cut.feature_dim == 24


def test_tokens_have_channels_last() -> None:
    cut = build_backbone("vit_tiny_patch16_224", library="timm", weights=None, upto="blocks_1", image_size=48)
    assert cut(images(48)).shape == (2, 10, 192)  # 9 patches and the class token
    assert cut.feature_dim == 192


def test_building_computes_nothing_and_leaves_the_random_stream_alone() -> None:
    model = original("mobilenet_v3_small")
    parts, _ = split(model)
    before = torch.get_rng_state()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    StagedBackbone(parts, Pretraining(), 64)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert all(part.training for part in parts.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnt18"}, "backbone.name=resnt18 .* did you mean resnet18"),
        ({"name": "resnt18", "library": "timm"}, "backbone.name=resnt18 .* did you mean resnet18"),
        ({"name": "resnet18", "library": "keras"}, "backbone.library=keras"),
        ({"name": "resnet18", "random_from": "layer9"}, "backbone.random_from=layer9 .* conv1, layer1, layer2"),
        ({"name": "resnet18", "upto": "layer9"}, "backbone.upto=layer9 .* conv1, layer1, layer2, layer3, layer4"),
        ({"name": "squeezenet1_1", "image_size": 12}, "data.image_size=12 .* try data.image_size=224"),
        ({"name": "vit_b_16", "image_size": 100}, "data.image_size=100 does not suit vit_b_16"),
        ({"name": "resnet18", "classifier": "nothing"}, "backbone.classifier=nothing"),
    ],
)
def test_mistakes(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(weights=None, **options)  # type: ignore[arg-type]


def test_a_model_for_any_image_size_is_cut_for_the_one_at_hand() -> None:
    backbone = build_backbone("test_vit", library="timm", weights=None, image_size=48, kwargs={"depth": 4})
    assert backbone.stage_names == ("patch_embed", "blocks_0", "blocks_1", "blocks_2", "blocks_3")
    with pytest.raises(UserError, match=r"backbone\.upto=blocks_1 cannot cut backbone\.name=test_vit"):
        build_backbone("test_vit", "timm", None, upto="blocks_1", kwargs={"dynamic_img_size": True})


@pytest.mark.parametrize(
    ("name", "kwargs", "text"),
    [
        ("timm:vit_tiny_patch16_224", {"depth": 2, "drop_path_rate": 0.2}, "DropPath(drop_prob=0.200)"),
        ("timm:efficientnet_lite0", {"pad_type": "same"}, "Conv2dSame("),
        ("convnext_tiny", {"stochastic_depth_prob": 0.3}, "StochasticDepth(p=0.3,"),
        ("mobilenet_v3_small", {"width_mult": 0.5}, "Linear(in_features=288,"),
    ],
)
def test_arguments_reach_the_builder(name: str, kwargs: dict[str, Any], text: str) -> None:
    library, _, name = name.rpartition(":")
    plain, changed = (
        build_backbone(name, library or "torchvision", None, image_size=32, kwargs=each) for each in ({}, kwargs)
    )
    assert text in str(changed)
    assert text not in str(plain)
    assert changed.variant != plain.variant


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"foo": 1}, r"backbone.kwargs.foo .* resnet18"),
        *(({key: "x"}, rf"backbone\.kwargs\.{key} is not for you to set") for key in OWN),
        ({"norm_layer": {"_target_": "os.getcwd"}}, "backbone.kwargs.norm_layer must be"),
        ({"norm_layer": torch.nn.Identity}, "backbone.kwargs.norm_layer must be"),
        ({"width_per_group": "wide", "base_width": "wide"}, "backbone.kwargs"),
    ],
)
def test_arguments_that_are_refused(library: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone("resnet18", library, None, image_size=32, kwargs=kwargs)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "convnext_tiny", "timm:poolformer_s12"])
def test_arguments_that_a_model_lets_fall_are_refused(name: str) -> None:
    library, _, name = name.rpartition(":")
    with pytest.raises(UserError, match=f"backbone.kwargs.stochastic is no argument that {name} takes"):
        build_backbone(name, library or "torchvision", None, image_size=32, kwargs={"stochastic": 0.1})
