"""Class token, registers and patches: told apart behind a cut, and for other pooling than the network's own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import timm
import torch
import torchvision
from omegaconf import DictConfig, OmegaConf
from originals import images
from torch import Tensor, nn
from torch.testing import assert_close

from tlab.core.errors import UserError
from tlab.models.backbones import build_backbone
from tlab.models.head import Head, Pooling
from tlab.models.stages import Pretraining, StagedBackbone
from tlab.models.staging.splitting import split
from tlab.runs.load import build_head, load_trained
from tlab.train import train

SMALL = {"depth": 3, "embed_dim": 32, "num_heads": 2}
SIZE = 48  # 3 x 3 patches of 16 px: 9 is a square, and so is 9 less a class token and four registers
# name, size, arguments, tokens in front of the patches
MODELS = [
    ("vit_tiny_patch16_224", SIZE, SMALL, 1),
    ("vit_small_patch14_reg4_dinov2", 42, SMALL, 5),
    ("vit_small_patch16_dinov3", SIZE, SMALL, 5),
    ("test_vit", SIZE, SMALL, 1),
    ("deit_tiny_distilled_patch16_224", SIZE, SMALL, 2),
    ("beit_base_patch16_224", SIZE, SMALL, 1),  # a norm after the mean of the patches
    ("vit_small_patch16_224", SIZE, {**SMALL, "global_pool": "avg"}, 1),
    ("vit_small_patch16_224", SIZE, {**SMALL, "global_pool": ""}, 1),
]


def saved(name: str, size: int, kwargs: dict[str, Any], path: Path) -> nn.Module:
    """An original model for images of `size` with random values everywhere, and its weights in a file."""
    torch.manual_seed(0)
    fixed = {"img_size": size} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    model = timm.create_model(name, **fixed, **kwargs).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    torch.save(model.state_dict(), path)
    return model


def expected(tokens: Tensor, prefix: int) -> dict[str, Tensor]:
    patches = tokens[:, prefix:]
    return {
        "avg": patches.mean(1),
        "max": patches.amax(1),
        "avgmax": (patches.mean(1) + patches.amax(1)) / 2,
        "token": tokens[:, 0],
        "token_avg": torch.cat([tokens[:, 0], patches.mean(1)], 1),
    }


def pooled(backbone: StagedBackbone, pooling: Any, x: Tensor) -> Tensor:
    head = Head(backbone.feature_dim, 2, pooling, prefix_tokens=backbone.prefix_tokens)
    with torch.no_grad():
        features = head.pool(backbone.eval()(x))
        assert head(features).shape == (len(x), 2)  # as pooled features are stored
    assert features.shape[1] == head.pooled_features
    return features


@pytest.mark.parametrize(("name", "size", "kwargs", "prefix"), MODELS)
def test_pooling_tells_tokens_apart(
    name: str, size: int, kwargs: dict[str, Any], prefix: int, tmp_path: Path
) -> None:
    model = saved(name, size, kwargs, tmp_path / "w.pth")
    x = images(size)
    inside: list[Tensor] = []
    model.blocks[1].register_forward_hook(lambda _, __, output: inside.append(output))
    with torch.no_grad():
        behind = model.forward_features(x)
        own = model.forward_head(behind, pre_logits=True)
        behind = model.fc_norm(behind)
    options = {"library": "timm", "weights": str(tmp_path / "w.pth"), "image_size": size, "kwargs": kwargs}
    cut = build_backbone(name, upto="blocks_1", **options)
    assert (cut.prefix_tokens, cut.has_class_token) == (prefix, True)
    uncut = {pooling: build_backbone(name, pooling=pooling, **options) for pooling in get_args(Pooling)}
    for pooling, wanted in expected(inside[0], prefix).items():
        assert torch.allclose(pooled(cut, pooling, x), wanted, atol=1e-4), pooling
    wanted = expected(behind, prefix)
    if own.ndim == 2:  # as the network pools
        wanted["avg"] = behind[:, 1] if prefix == 2 else own
    for pooling, backbone in uncut.items():
        assert torch.allclose(pooled(backbone, pooling, x), wanted[pooling], atol=1e-4), pooling


def test_torchvisions_class_token() -> None:
    model = torchvision.models.VisionTransformer(32, 16, 3, 2, 96, 96, num_classes=3).eval()
    parts, _ = split(model)
    kept = {name: part for name, part in parts.items() if "layer_2" not in name}
    cut = StagedBackbone(kept, Pretraining(), 32, tokens="apart")
    whole = StagedBackbone(split(model, tokens_at=32)[0], Pretraining(), 32, tokens="apart")
    x = images(32)
    with torch.no_grad():
        assert (cut.prefix_tokens, whole.prefix_tokens, cut(x).shape) == (1, 1, (2, 5, 96))
        assert torch.equal(pooled(whole, "token", x), StagedBackbone(parts, Pretraining(), 32).eval()(x))


def test_a_token_that_comes_late_is_none_before() -> None:
    """CaiT puts its class token in front of the patches in its last two layers."""
    kwargs = {"depth": 3, "embed_dim": 32, "num_heads": 2}
    before, behind = (
        build_backbone("cait_xxs24_224", "timm", None, upto=upto, image_size=32, kwargs=kwargs, pooling="max")
        for upto in ("blocks_1", None)
    )
    assert (before.prefix_tokens, behind.prefix_tokens) == (0, 1)
    assert behind(images(32)).shape == (2, 5, 32)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"library": "torchvision"}),
        ("vit_little_patch16_reg1_gap_256", {"kwargs": {**SMALL, "depth": 2}, "upto": "blocks_0"}),
        ("vit_base_patch16_siglip_224", {"kwargs": {**SMALL, "depth": 2}}),  # pools by attention
        ("swin_tiny_patch4_window7_224", {"kwargs": {"depths": [1, 1], "embed_dim": 8, "num_heads": [1, 1]}}),
    ],
)
@pytest.mark.parametrize("pooling", ["token", "token_avg"])
def test_a_network_without_class_token_is_refused(name: str, options: dict[str, Any], pooling: str) -> None:
    options = {"library": "timm", "weights": None, "image_size": 32, **options}
    backbone = build_backbone(name, pooling=pooling, **options)
    head = {"_target_": "tlab.models.head.Head", "_partial_": True, "pooling": pooling}
    cfg = OmegaConf.create({"backbone": {"name": name}, "head": head})
    with pytest.raises(UserError, match=f"head.pooling={pooling} .* {name} .* avg, max or avgmax"):
        build_head(cfg, backbone, 2)


def test_maps_with_channels_last_are_pooled_over_positions() -> None:
    kwargs = {"depths": [1, 1], "embed_dim": 8, "num_heads": [1, 1]}
    swin = build_backbone("swin_tiny_patch4_window7_224", "timm", None, image_size=64, kwargs=kwargs, pooling="max")
    x = images(64)
    with torch.no_grad():
        assert torch.equal(pooled(swin, "max", x), swin.eval()(x).amax((2, 3)))
    assert swin(x).shape == (2, 16, 8, 8)


def test_stored_features_and_checkpoints_keep_tokens_apart(
    compose_run: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLAB_CACHE", str(tmp_path / "cache"))
    name = ("backbone=timm", "backbone.name=vit_tiny_patch16_224", "backbone.upto=blocks_1")
    small = ("backbone.kwargs={depth: 3, embed_dim: 16, num_heads: 2}", "head.pooling=token_avg")
    plan = ("finetune=head", "finetune.head_epochs=null", "trainer.max_epochs=1", "aug=none", "head.dropout=0")
    for cache in ("auto", "off"):
        train(compose_run(*name, *small, *plan, f"features.cache={cache}", run_dir=tmp_path / cache))
    (rows,) = {np.load(file).shape[1:] for file in (tmp_path / "cache" / "features").glob("*.npy")}
    assert rows == (32,)
    stored, streamed = (load_trained(tmp_path / cache).module.net for cache in ("auto", "off"))
    assert_close(stored.state_dict(), streamed.state_dict(), atol=1e-5, rtol=0)
    x = images(32, batch=4).sigmoid()
    with torch.no_grad():
        tokens = stored.backbone(stored.normalize(x))
        wanted = stored.head.linear(expected(tokens, 1)["token_avg"])
        assert wanted.std() > 1e-4
        assert_close(stored(x), wanted)
