"""Names, cuts, sizes and layouts of backbones, and the choices in conf/backbone."""

from pathlib import Path

import pytest
import torch
import torchvision
from hydra.utils import instantiate
from omegaconf import OmegaConf
from originals import images, original

from tlab.errors import UserError
from tlab.models.backbones import build_backbone
from tlab.models.splitting import split
from tlab.models.stages import Pretraining, StagedBackbone

CONF = Path(__file__).parents[2] / "conf"
CHOICES = sorted(path.stem for path in (CONF / "backbone").glob("*.yaml"))
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
    assert text.startswith("# Choose ")
    assert conf._target_ == "tlab.models.backbones.build_backbone"
    if choice in ("torchvision", "timm"):
        assert OmegaConf.is_missing(conf, "name")
        return
    with torch.device("meta"):
        parts, _ = split(original(conf.name), conf.stages)
    assert list(parts) == list(conf.stages)
    assert list(parts)[-1] == next(last for prefix, last in LAST.items() if choice.startswith(prefix))


def test_a_choice_builds_and_runs() -> None:
    conf = OmegaConf.load(CONF / "backbone" / "mobilenet_v3_small.yaml")
    backbone = instantiate(conf, weights="bundled", image_size=64)
    assert backbone(images(64)).shape == (2, 1024)
    assert backbone.stage_shapes(64)["block2"] == (24, 8, 8)
    assert backbone.pretraining.input_size == 96


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
        ({"name": "resnet18", "upto": "layer9"}, "backbone.upto=layer9 .* conv1, layer1, layer2, layer3, layer4"),
        ({"name": "squeezenet1_1", "image_size": 12}, "data.image_size=12 .* try data.image_size=224"),
        ({"name": "vit_b_16", "image_size": 100}, "data.image_size=100 does not suit vit_b_16"),
        ({"name": "resnet18", "classifier": "nothing"}, "backbone.classifier=nothing"),
    ],
)
def test_mistakes(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(weights=None, **options)  # type: ignore[arg-type]


def test_timm_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match="pip install timm"):
        build_backbone("resnet18", library="timm", weights=None)
