"""Heat maps, of networks of which is known what they look at."""

import copy
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.testing import assert_close

from tlab.core.errors import UserError
from tlab.data.decode_options import DecodeOptions
from tlab.explaining import layer_cam
from tlab.explaining.layer_cam import grids, heat_maps, overlay
from tlab.models.calibration.temperature import temperature_of
from tlab.models.classifier import Classifier
from tlab.models.head import Head, Pooling
from tlab.models.module import ImageClassifier
from tlab.models.stages import Pretraining, StagedBackbone
from tlab.runs.load import Trained
from tlab.runs.trained_model import TrainedModel

SIZE = 32


class Patches(nn.Module):
    """Images to tokens: a class token, and the mean color of 4 x 4 patches."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 3), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        patches = nn.functional.avg_pool2d(x, 8).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), patches], dim=1)


class Gather(nn.Module):
    """The class token gets the sum of the patches, from which it can be told; alone, or before them."""

    def __init__(self, alone: bool) -> None:
        super().__init__()
        self.alone = alone

    def forward(self, tokens: Tensor) -> Tensor:
        gathered = tokens[:, 1:].sum(1)
        return gathered if self.alone else torch.cat([gathered[:, None], tokens[:, 1:]], dim=1)


def trained(stages: dict[str, nn.Module], pooling: Pooling = "avg") -> TrainedModel:
    """Class k reads channel k, red, green or blue."""
    anchor = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False))
    anchor[0].weight.data.copy_(torch.eye(3)[..., None, None])
    tokens = "pooled" if pooling == "avg" else "apart"
    backbone = StagedBackbone({"stem": anchor, **stages}, Pretraining(SIZE), SIZE, tokens)
    head = Head(3, 3, pooling, prefix_tokens=backbone.prefix_tokens)
    head.linear.weight.data.copy_(torch.eye(3))
    net = Classifier(backbone, head, (0.0,) * 3, (1.0,) * 3)
    module = ImageClassifier(net, ("red", "green", "blue"), lambda groups: torch.optim.SGD(groups, lr=0.0))
    return TrainedModel(
        Trained(
            module.requires_grad_(False).eval(),
            *(("red", "green", "blue"), OmegaConf.create({}), "32-true", SIZE, "crop", 1.0),
            *(DecodeOptions(), None, temperature_of({}), Path("none.ckpt")),
        ),
        "cpu",
    )


class Cut(nn.Module):
    """Lets no gradient through."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def out_of_memory(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture
def image() -> Tensor:
    """Black, the upper left corner red and the lower right one green."""
    x = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
    x[:, 0, :8, :8], x[:, 1, -8:, -8:] = 250, 200
    return x


@pytest.mark.parametrize(
    ("stages", "pooling"),
    [
        ({"maps": nn.AvgPool2d(8)}, "avg"),
        ({"in place": nn.Sequential(nn.ReLU(inplace=True), nn.AvgPool2d(8))}, "avg"),
        ({"maps": nn.AvgPool2d(8), "vector": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())}, "avg"),
        ({"tokens": Patches(), "vector": Gather(alone=True)}, "avg"),
        ({"tokens": Patches(), "token": Gather(alone=False)}, "token"),
        ({"tokens": Patches(), "all": Gather(alone=False)}, "max"),
    ],
    ids=["maps", "in place", "maps before a vector", "pooled tokens", "class token", "patches"],
)
def test_the_place_that_speaks_for_a_class_lights_up(stages: dict[str, nn.Module], pooling: Pooling, image: Tensor):
    model = trained(stages, pooling)
    maps = heat_maps(model, image.expand(3, -1, -1, -1), torch.tensor([0, 1, 2]))
    assert maps.shape == (3, SIZE, SIZE)
    assert maps.dtype == torch.float32
    red, green, blue = maps
    assert red[:6, :6].min() > 0.5 > red[12:].max() == 0
    assert_close(green.flip(0, 1), red)
    assert not blue.any()
    assert_close(heat_maps(model, image)[0], red)  # the most probable class


def test_the_network_is_left_as_it_was(image: Tensor):
    model = trained({"block": nn.Sequential(nn.BatchNorm2d(3), nn.AvgPool2d(8))})
    before = copy.deepcopy(model.module.state_dict())
    with torch.inference_mode():  # as a server predicts
        heat_maps(model, image, torch.tensor([2]))
    assert_close(model.module.state_dict(), before, rtol=0, atol=0)
    for module in model.module.modules():
        assert not module.training
        assert not module._forward_hooks
    assert all(each.grad is None and not each.requires_grad for each in model.module.parameters())


def test_tokens_of_a_transformer_lie_on_a_grid():
    small = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1, embed_dim=8, num_heads=2, num_classes=0)
    backbone = StagedBackbone(
        {"patches": nn.Sequential(small.patch_embed), "all": _Blocks(small)}, Pretraining(64), 64
    )
    assert [(grid.stage, grid.rows, grid.columns) for grid in grids(backbone, 64)] == [
        ("all", 4, 4),
        ("patches", 4, 4),
    ]
    tokens = torch.arange(17.0)[None, :, None].expand(1, 17, 8)
    assert_close(next(grids(backbone, 64)).to_maps(tokens)[0, 0], torch.arange(1.0, 17).view(4, 4))


class _Blocks(nn.Module):
    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.cls_token, self.blocks = vit.cls_token, vit.blocks

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1))


def test_an_overlay_is_brightest_where_the_map_is():
    heat_map = torch.linspace(0, 1, SIZE).expand(SIZE, SIZE)
    x = overlay(torch.full((3, SIZE, SIZE), 100, dtype=torch.uint8), heat_map)
    assert (x.dtype, x.shape) == (torch.uint8, (3, SIZE, SIZE))
    lightness = x.float().mean((0, 1)).numpy()
    assert np.all(np.diff(lightness) >= -1)
    assert lightness[-1] > lightness[0] + 80


def test_what_hinders_heat_maps_is_said(image: Tensor, monkeypatch: pytest.MonkeyPatch):
    vector = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = trained({"vector": vector})
    assert heat_maps(model, image).any()  # the stem has positions
    model.module.net.backbone.stages["stem"].append(vector)
    model.module.net.backbone._shapes.clear()
    model.module.net.backbone.stages["vector"] = nn.Identity()
    with pytest.raises(UserError, match="stem, vector"):
        heat_maps(model, image)
    model = trained({"maps": nn.AvgPool2d(8), "vector": nn.Sequential(Cut(), vector)})
    with pytest.raises(UserError, match=r"stem, maps, vector.*gradient"):
        heat_maps(model, image)
    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", out_of_memory)
        with pytest.raises(UserError, match="memory"):
            heat_maps(model, image)
    monkeypatch.setattr(layer_cam, "torchcam_is_there", lambda: False)
    with pytest.raises(UserError, match="explain"):
        heat_maps(model, image)
