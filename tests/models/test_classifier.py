"""Freezing: what is frozen does not change by one bit, and the rest trains."""

from collections.abc import Collection

import pytest
import torch
import torch.nn.functional as F
from originals import images
from torch import Tensor, nn
from torchvision.models.vgg import make_layers
from torchvision.transforms.v2 import functional as TF

from tlab.core.errors import UserError
from tlab.models.backbones import build_backbone
from tlab.models.classifier import Classifier, Normalize, digest
from tlab.models.head import Head
from tlab.models.stages import IMAGENET_MEAN, IMAGENET_STD, Pretraining, StagedBackbone
from tlab.models.staging.splitting import split


def classifier(name: str = "resnet18", dropout: float = 0.0, **options: object) -> Classifier:
    torch.manual_seed(0)
    backbone = build_backbone(name, weights=None, image_size=32, **options)  # type: ignore[arg-type]
    return Classifier(backbone, Head(backbone.feature_dim, 3, dropout=dropout), IMAGENET_MEAN, IMAGENET_STD)


@pytest.fixture(scope="module")
def net() -> Classifier:
    return classifier()


def train(net: Classifier, steps: int = 3, rate: float = 0.1) -> None:
    """Real steps; Lightning switches between the modes in between."""
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], rate, momentum=0.9)
    for _ in range(steps):
        net.eval()
        net(images(32))
        net.train()
        optimizer.zero_grad()
        F.cross_entropy(net(images(32, batch=4)), torch.arange(4) % 3).backward()
        optimizer.step()


def changed(net: Classifier, before: dict[str, Tensor]) -> set[str]:
    return {key for key, tensor in net.state_dict().items() if not torch.equal(tensor, before[key])}


def snapshot(net: Classifier) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in net.state_dict().items()}


def vgg_bn() -> Classifier:
    """VGG11-BN without the 119 M parameters of its linear layers."""
    features = make_layers([64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"], batch_norm=True)
    parts, _ = split(nn.Sequential(features, nn.Flatten(), nn.Linear(512, 3)))
    return Classifier(StagedBackbone(parts, Pretraining(), 32), Head(512, 3), IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("mobilenet_v3_small", {}),
        ("vgg_bn", {}),
        pytest.param("vgg16_bn", {}, marks=pytest.mark.slow),
    ],
)
def test_no_tensor_of_a_frozen_backbone_changes(name: str, options: dict[str, str]) -> None:
    net = vgg_bn() if name == "vgg_bn" else classifier(name, **options)
    net.set_trainable(["head"])
    before = snapshot(net)
    digests = {group: digest(net.group(group)) for group in net.group_names}
    train(net)
    assert changed(net, before) == {"head.linear.weight", "head.linear.bias"}
    assert [group for group in net.group_names if digest(net.group(group)) != digests[group]] == ["head"]
    assert all(parameter.grad is None for parameter in net.backbone.parameters())


def test_stages_thaw_alone(net: Classifier) -> None:
    net.set_trainable(["layer4", "head"])
    before = snapshot(net)
    train(net)
    moved = changed(net, before)
    assert moved == {key for key in before if key.startswith(("backbone.stages.layer4.", "head."))}
    assert "backbone.stages.layer4.layer4.0.bn1.num_batches_tracked" in moved


def test_a_frozen_stage_in_the_middle_passes_gradients(net: Classifier) -> None:
    net.set_trainable(["conv1", "head"])
    before = snapshot(net)
    train(net)
    assert changed(net, before) == {key for key in before if key.startswith(("backbone.stages.conv1.", "head."))}


def test_leading_frozen_stages_build_no_graph(net: Classifier) -> None:
    graded: dict[str, bool] = {}
    hooks = [
        stage.register_forward_hook(lambda _, __, out, name=name: graded.update({name: out.requires_grad}))
        for name, stage in net.backbone.stages.items()
    ]
    net.set_trainable(["layer3", "head"])
    net.train()(images(32))
    for hook in hooks:
        hook.remove()
    assert graded == {"conv1": False, "layer1": False, "layer2": False, "layer3": True, "layer4": True}


def test_freezing_again_drops_gradients(net: Classifier) -> None:
    net.set_trainable(net.group_names)
    net.train()
    net(images(32, batch=4)).square().sum().backward()
    F.cross_entropy(net(images(32, batch=4)), torch.zeros(4, dtype=torch.long)).backward()
    assert net.head.linear.weight.grad is not None
    net.set_trainable([])
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in net.parameters())
    assert not any(module.training for group in net.group_names for module in net.group(group).modules())


def modes(net: Classifier) -> set[str]:
    return {name for name in net.group_names if any(module.training for module in net.group(name).modules())}


@pytest.mark.parametrize("groups", [{"head"}, {"layer4", "head"}, {"conv1", "layer1"}])
def test_modes_survive_train_and_eval(net: Classifier, groups: Collection[str]) -> None:
    net.set_trainable(groups)
    for _ in range(2):
        assert modes(net.train()) == groups
        assert modes(net.eval()) == set()
    net.train()
    net.set_trainable({"head"})
    assert modes(net) == {"head"}


def test_dropout_of_the_head_stays_active_over_a_frozen_backbone() -> None:
    net = classifier(dropout=0.5)
    nn.init.normal_(net.head.linear.weight)
    net.set_trainable(["head"])
    x = images(32)
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


def test_paths_drop_in_stages_that_train_only() -> None:
    kwargs = {"depth": 2, "embed_dim": 32, "num_heads": 2, "drop_path_rate": 0.5}
    net = classifier("vit_tiny_patch16_224", library="timm", kwargs=kwargs)
    x = images(32, batch=16)
    for trained, same in ((["head"], True), (["blocks_1", "head"], False)):
        net.set_trainable(trained)
        net.train()
        assert torch.equal(net.backbone(x), net.backbone(x)) is same


def test_parameter_groups_hold_each_parameter_once(net: Classifier) -> None:
    groups = net.parameter_groups()
    assert list(groups) == ["conv1", "layer1", "layer2", "layer3", "layer4", "head"]
    listed = [parameter for group in groups.values() for part in group.values() for parameter in part]
    assert len(listed) == len(set(listed)) == len(list(net.parameters()))
    for group in groups.values():
        assert all(parameter.ndim > 1 for parameter in group["decay"])
        assert all(parameter.ndim == 1 for parameter in group["no_decay"])


def test_embeddings_do_not_decay() -> None:
    backbone = build_backbone("vit_tiny_patch16_224", library="timm", weights=None, image_size=32)
    net = Classifier(backbone, Head(192, 3), IMAGENET_MEAN, IMAGENET_STD)
    stem = net.parameter_groups()["patch_embed"]
    assert sorted(tuple(p.shape) for p in stem["no_decay"]) == [(1, 1, 192), (1, 5, 192), (192,)]
    assert [tuple(p.shape) for p in stem["decay"]] == [(192, 3, 16, 16)]


def test_a_shared_parameter_is_listed_once_and_frozen_with_its_stage() -> None:
    one, two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    two.weight = one.weight
    net = Classifier(StagedBackbone({"one": one, "two": two}, Pretraining(), 8), Head(3, 2), (0, 0, 0), (1, 1, 1))
    groups = net.parameter_groups()
    assert [len(groups[name]["decay"]) for name in net.group_names] == [1, 0, 1]
    net.set_trainable(["two", "head"])
    assert not one.weight.requires_grad
    assert two.bias.requires_grad


def test_unknown_group(net: Classifier) -> None:
    with pytest.raises(UserError, match=r"no stage 'layer9' .* conv1, layer1"):
        net.set_trainable(["layer9"])


def test_state_dict_keys(net: Classifier) -> None:
    assert "backbone.stages.layer1.layer1.0.conv1.weight" in net.state_dict()
    assert {"head.linear.weight", "normalize.mean"} <= set(net.state_dict())


def test_normalize_equals_torchvision() -> None:
    x = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    wanted = TF.normalize(TF.to_dtype(x, torch.float32, scale=True), IMAGENET_MEAN, IMAGENET_STD)
    normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD)
    assert torch.allclose(normalize(x), wanted, atol=1e-6)
    assert torch.equal(normalize(x.float() / 255), normalize(x))


def test_digest_sees_one_bit() -> None:
    layer = nn.BatchNorm2d(3)
    first = digest(layer)
    assert digest(layer) == first
    layer.num_batches_tracked += 1
    assert digest(layer) != first
