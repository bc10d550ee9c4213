"""The chain of stages computes what the original model computes, bit for bit, in both modes."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from originals import images, original
from torch import Tensor, nn

from tlab.models.head import Head
from tlab.models.stages import Pretraining, StagedBackbone
from tlab.models.staging.splitting import split

SIDES = {"aux_logits": False, "transform_input": True, "init_weights": False}
STATIC = {"img_size": 32, "dynamic_img_size": False, "depth": 3}
slow = pytest.mark.slow
MODELS = [
    ("resnet18", 32, {}),
    ("mobilenet_v3_small", 32, {}),
    ("squeezenet1_1", 32, {}),
    ("shufflenet_v2_x0_5", 32, {}),
    ("mnasnet0_5", 32, {}),
    ("efficientnet_b0", 32, {}),
    ("regnet_y_400mf", 32, {}),
    ("googlenet", 32, SIDES),
    ("timm:resnet18", 32, {}),
    ("timm:vit_tiny_patch16_224", 32, {"img_size": 32}),
    ("timm:vit_small_patch16_dinov3", 32, {**STATIC, "embed_dim": 48, "num_heads": 2, "num_classes": 5}),
    ("timm:vit_small_patch16_rope_mixed_224", 32, {**STATIC, "embed_dim": 48, "num_heads": 2}),
    ("timm:eva02_tiny_patch14_224", 28, {"img_size": 28, "depth": 3, "num_classes": 5}),
    ("timm:convnext_atto", 32, {}),
    ("timm:efficientnet_lite0", 32, {}),
    ("timm:mobilenetv4_conv_small", 32, {}),
    ("timm:ghostnet_100", 32, {}),  # F.dropout(training=self.training) in its glue
    pytest.param("densenet121", 32, {}, marks=slow),
    pytest.param("resnet50", 32, {}, marks=slow),
    pytest.param("vgg11", 32, {"init_weights": False}, marks=slow),
    pytest.param("vgg16_bn", 32, {"init_weights": False}, marks=slow),
    pytest.param("alexnet", 64, {}, marks=slow),
    pytest.param("convnext_tiny", 32, {}, marks=slow),
    pytest.param("vit_b_16", 32, {"image_size": 32}, marks=slow),
    pytest.param("swin_t", 32, {}, marks=slow),
    pytest.param("inception_v3", 75, SIDES, marks=slow),
    pytest.param("maxvit_t", 224, {"input_size": (224, 224)}, marks=slow),
    pytest.param("timm:swin_tiny_patch4_window7_224", 224, {}, marks=slow),
    pytest.param("timm:vgg11", 224, {}, marks=slow),
    pytest.param("timm:hiera_tiny_224", 224, {}, marks=slow),
]


def classifier_input(model: nn.Module, path: str, x: Tensor) -> Tensor:
    """What reaches the classifier of the original model."""
    seen: list[Tensor] = []
    hook = model.get_submodule(path).register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach()))
    model(x)
    hook.remove()
    return seen[0]


def dropout_before_classifier(model: nn.Module, backbone: StagedBackbone) -> float:
    """Probability of the dropout that belongs to no stage."""
    kept = set(backbone.modules())
    dropped = [m.p for m in model.modules() if isinstance(m, nn.Dropout) and m not in kept]
    return getattr(model, "drop_rate", 0.0) or (dropped[-1] if dropped else 0.0)


@pytest.mark.parametrize(("name", "size", "options"), MODELS)
def test_stages_equal_the_original(name: str, size: int, options: dict[str, Any]) -> None:
    model = original(name, **options)
    parts, path = split(model)
    backbone = StagedBackbone(parts, Pretraining(), size)
    assert len(parts) >= 4
    pool = Head(backbone.feature_dim, 2).pool  # built here, since building draws random numbers
    x = images(size)
    for training in (False, True):
        model.train(training)
        backbone.train(training)
        with torch.no_grad():
            torch.manual_seed(2)
            wanted = classifier_input(model, path, x)
            torch.manual_seed(2)
            features = backbone(x)
            if wanted.ndim == 2:
                features = pool(features)
            features = F.dropout(features, dropout_before_classifier(model, backbone), training)
        assert torch.equal(features, wanted), f"differs with training={training}"
        assert features.shape[1] == backbone.feature_dim


@pytest.mark.parametrize(("name", "options"), [("resnet18", {}), ("mobilenet_v3_small", {}), ("googlenet", SIDES)])
def test_keys_of_the_stages_are_the_original_keys(name: str, options: dict[str, Any]) -> None:
    model = original(name, **options)
    keys = set(model.state_dict())
    parts, path = split(model)
    found = [key for part in parts.values() for key in part.state_dict()]
    assert len(found) == len(set(found))
    assert set(found) == {key for key in keys if not key.startswith(f"{path}.")}


def test_gradients_and_buffers_equal_the_original() -> None:
    ours, theirs = original("resnet18"), original("resnet18")
    backbone = StagedBackbone(split(ours)[0], Pretraining(), 32).train()
    x = images(32, batch=4)
    backbone(x).mean((2, 3)).square().sum().backward()
    theirs.fc = nn.Identity()
    theirs.train()(x).square().sum().backward()
    mine = {key.split(".", 2)[2]: tensor for key, tensor in backbone.state_dict().items()}
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(mine[key], tensor), key
    for key, parameter in theirs.named_parameters():
        assert torch.equal(ours.get_parameter(key).grad, parameter.grad), key
