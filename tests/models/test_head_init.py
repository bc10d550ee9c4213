"""Rows of the new head that start from the source classifier's."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from originals import images, original
from torch import Tensor, nn

from tlab.core.errors import UserError
from tlab.models import backbones
from tlab.models.backbones import build_backbone
from tlab.models.classifier import Classifier
from tlab.models.head import Head
from tlab.models.head_init import find_source, reuse_rows, sees_pooled_features
from tlab.models.stages import IMAGENET_MEAN, IMAGENET_STD, Pretraining, StagedBackbone
from tlab.models.staging.splitting import split

slow = pytest.mark.slow
WEIGHT = torch.tensor([[1.0, 2.0], [3.0, 8.0], [5.0, 2.0]])  # the mean row is 3, 4
BIAS = torch.tensor([1.0, 2.0, 6.0])  # mean 3
SOURCE = ("ant, emmet", "bee", "sea lion")


def pretraining(**changes: Any) -> Pretraining:
    known = {"classes": SOURCE, "classifier_weight": WEIGHT, "classifier_bias": BIAS, "classifier_fits": True}
    return Pretraining(**{**known, "description": "file w.pth", **changes})


def test_rows_are_the_source_rows_less_their_mean() -> None:
    head = Head(2, 4)
    taken = reuse_rows(head, pretraining(), ("bees", "cat", "emmet", "x"), {"bees": "bee", "x": "sea_lion"})
    assert taken == {"bees": "bee", "x": "sea lion"} == head.reused
    assert head.linear.weight.tolist() == [[0.0, 4.0], [0.0, 0.0], [0.0, 0.0], [2.0, -2.0]]
    assert head.linear.bias.tolist() == [-1.0, 0.0, 0.0, 3.0]
    assert head.linear.weight.requires_grad
    unbiased = Head(2, 1)
    reuse_rows(unbiased, pretraining(classifier_bias=None), ("bee",), "auto")
    assert unbiased.linear.weight.tolist() == [[0.0, 4.0]]
    assert unbiased.linear.bias.tolist() == [0.0]


def test_auto_takes_classes_of_the_same_name_only() -> None:
    head = Head(2, 4)
    taken = reuse_rows(head, pretraining(), ("ants", "Emmet", "SEA-LION", "Bee"), "auto")
    assert taken == {"Emmet": "ant, emmet", "SEA-LION": "sea lion", "Bee": "bee"}
    assert reuse_rows(Head(2, 4), pretraining(), ("ants", "Emmet", "SEA-LION", "bees"), "auto") == {}  # only half
    assert reuse_rows(Head(2, 1), pretraining(), ("bee",), None) == {}
    cranes = ("crane", "crane", "projectile, missile", "missile")
    assert [find_source(name, cranes) for name in ("crane", "missile", "Projectile", "")] == [[0, 1], [3], [2], []]
    assert reuse_rows(Head(2, 1), pretraining(classes=cranes), ("crane",), "auto") == {}


OBSTACLES: list[tuple[Head, dict[str, Any], str]] = [
    (Head(2, 2), {"classifier_weight": None}, "file w.pth has no source classifier"),
    (Head(2, 2), {"classes": None}, "backbone.weights_classes=FILE"),
    (Head(2, 2, pooling="max"), {}, "head.pooling=avg"),
    (Head(2, 2, normalize=True), {}, "head.normalize=false"),
    (Head(2, 2, hidden=[2]), {}, r"head.hidden=\[\]"),
    (Head(3, 2), {}, "the source classifier has 2 inputs and the head 3"),
    (Head(2, 2), {"classifier_fits": False}, "saw other features .* backbone.upto=null"),
]


@pytest.mark.parametrize(("head", "changes", "message"), OBSTACLES)
def test_what_does_not_fit(
    head: Head, changes: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = head.linear.weight.clone()
    with pytest.raises(UserError, match=f"head.reuse takes no rows, because .*{message}"):
        reuse_rows(head, pretraining(**changes), ("bee", "cat"), {"bee": "bee"})
    with caplog.at_level(logging.INFO, "tlab"):
        assert reuse_rows(head, pretraining(**changes), ("bee", "cat"), "auto") == {}
    missed = "classes" not in changes  # without the names nobody knows that there is a bee
    assert [m.startswith("head.reuse=auto takes no rows, because") for m in caplog.messages] == [True] * missed
    assert torch.equal(head.linear.weight, before)


@pytest.mark.parametrize(
    ("reuse", "message"),
    [
        ({"wasp": "bee"}, "head.reuse names wasp, which is no class of the data: bee, cat$"),
        ({"cat": "beee"}, "cat: beee is no source class, did you mean bee"),
        ({"cat": "qqqq"}, r"did you mean ant, bee, sea lion\?"),
        ("always", "head.reuse=always is unknown, choose auto, null or a map"),
    ],
)
def test_mistakes_in_the_map(reuse: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        reuse_rows(Head(2, 2), pretraining(), ("bee", "cat"), reuse)


def test_a_name_of_two_source_classes_must_be_told_apart() -> None:
    with pytest.raises(UserError, match=r"cat: crane means 'crane' \(number 0\) and 'crane' \(number 2\)"):
        reuse_rows(Head(2, 1), pretraining(classes=("crane", "b", "crane")), ("cat",), {"cat": "crane"})


def test_what_is_said(caplog: pytest.LogCaptureFixture) -> None:
    names = tuple(f"class{number}, c{number}" for number in range(11))
    many = pretraining(classes=names, classifier_weight=torch.eye(11), classifier_bias=None)
    with caplog.at_level(logging.INFO, "tlab"):
        reuse_rows(Head(11, 11), many, [f"c{number}" for number in range(11)], "auto")
        reuse_rows(Head(2, 1), pretraining(), ("cat",), "auto")  # no row to take: nothing to say
        reuse_rows(Head(2, 1), Pretraining(), ("bee",), "auto")  # random weights: nothing to say
    assert caplog.messages == [
        "head.reuse: 11 of 11 rows come from the weights: "
        + ", ".join(f"c{i} (class{i})" for i in range(8))
        + " and 3 more",
    ]


def lively(model: nn.Module) -> nn.Module:
    """Random values wherever a fresh model has zeros and ones (a ViT's classifier, BatchNorm's statistics)."""
    generator = torch.Generator().manual_seed(4)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and (tensor.ndim == 1 or "head" in name):
            tensor.add_(0.2 * torch.rand(tensor.shape, generator=generator))
    return model


def logits_of_rows(backbone: StagedBackbone, rows: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    features = Head(backbone.feature_dim, 1).pool(backbone.eval()(x))
    return features @ rows.T + (0 if bias is None else bias)


MODELS: list[Any] = [
    ("resnet18", 64, {}),
    ("mobilenet_v3_small", 64, {}),
    ("efficientnet_b0", 64, {}),
    ("regnet_y_400mf", 64, {}),
    ("timm:resnet18", 64, {}),
    ("timm:vit_tiny_patch16_224", 64, {"img_size": 64}),
    ("timm:convnext_atto", 64, {}),
    ("timm:mobilenetv4_conv_small", 64, {}),
    pytest.param("vgg11", 64, {"init_weights": False}, marks=slow),
    pytest.param("vgg16_bn", 64, {"init_weights": False}, marks=slow),
    pytest.param("vit_b_16", 64, {"image_size": 64}, marks=slow),
    pytest.param("convnext_tiny", 64, {}, marks=slow),
    pytest.param("densenet121", 64, {}, marks=slow),
    pytest.param("swin_t", 64, {}, marks=slow),
    pytest.param("inception_v3", 75, {"aux_logits": False, "init_weights": False}, marks=slow),
]


@pytest.mark.parametrize(("name", "size", "options"), MODELS)
def test_rows_on_pooled_features_are_the_original(name: str, size: int, options: dict[str, Any]) -> None:
    """On an image that the check itself has not seen."""
    model = lively(original(name, **options))
    parts, path = split(model)
    backbone = StagedBackbone(parts, Pretraining(), size)
    state = torch.get_rng_state()
    assert sees_pooled_features(model, path, backbone, size)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(part.training for part in (model, backbone))
    x = images(size)
    layer = model.get_submodule(path)
    with torch.no_grad():
        wanted = model.eval()(x)
        rows = logits_of_rows(backbone, layer.weight.flatten(1), layer.bias, x)
    assert wanted.std() > 1e-3
    assert torch.allclose(rows, wanted, atol=1e-4 * float(wanted.abs().max()))


class Between(nn.Module):
    """A classifier of the features' dimension that sees something else, or whose output is not the end."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.fc = nn.Linear(8, 5)
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        if self.what == "max":
            return self.fc(x.amax((2, 3)))
        x = x.mean((2, 3))
        return self.fc(x).relu() if self.what == "relu" else self.fc(nn.functional.normalize(x))


@pytest.mark.parametrize("what", ["max", "norm", "relu"])
def test_other_features_of_the_same_dimension_are_told(what: str) -> None:
    torch.manual_seed(0)
    model = Between(what)
    backbone = StagedBackbone({"features": model.features}, Pretraining(), 8)
    assert backbone.feature_dim == model.fc.in_features
    assert not sees_pooled_features(model, "fc", backbone, 8)
    assert not sees_pooled_features(model, "", backbone, 8)


def test_the_mean_of_two_classifiers_is_told() -> None:
    model = lively(original("timm:deit_tiny_distilled_patch16_224", img_size=64))
    parts, path = split(model)
    assert not sees_pooled_features(model, path, StagedBackbone(parts, Pretraining(), 64), 64)


@pytest.mark.parametrize(
    ("name", "options", "fits"),
    [
        ("resnet18", {}, True),
        ("resnet18", {"upto": "layer3"}, False),
        ("squeezenet1_1", {}, False),  # its classifier is a convolution before ReLU and pooling
        ("vit_tiny_patch16_224", {"library": "timm"}, True),
        ("vit_tiny_patch16_224", {"library": "timm", "upto": "blocks_10"}, False),
    ],
)
def test_a_weights_file_of_each_kind(name: str, options: dict[str, Any], fits: bool, tmp_path: Path) -> None:
    model = lively(
        original(f"timm:{name}", num_classes=3, img_size=64)
        if "library" in options
        else original(name, num_classes=3)
    )
    torch.save(model.state_dict(), tmp_path / "w.pth")
    (tmp_path / "classes.json").write_text(json.dumps(SOURCE))
    known = {"weights_classes": str(tmp_path / "classes.json"), "image_size": 64}
    backbone = build_backbone(name, weights=str(tmp_path / "w.pth"), **known, **options)
    assert backbone.pretraining.classifier_fits is fits
    if fits:  # with every source class as target, the first probabilities are those of the source model
        head = Head(backbone.feature_dim, 3)
        assert len(reuse_rows(head, backbone.pretraining, SOURCE[::-1], "auto")) == 3
        x = images(64)
        with torch.no_grad():
            ours, theirs = head(backbone.eval()(x)).softmax(1), model.eval()(x).softmax(1)
        assert theirs.std() > 0.01
        assert torch.allclose(ours.flip(1), theirs, atol=1e-6)


def test_named_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of timm, with its download replaced by random weights."""
    import timm

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda pretrained, **kw: create(pretrained=False, **kw))
    backbone = build_backbone("mobilenetv4_conv_small", library="timm", weights="DEFAULT", image_size=64)
    head = Head(backbone.feature_dim, 3)
    assert reuse_rows(head, backbone.pretraining, ("bee", "goldfish", "my dog"), "auto").keys() == {
        "bee",
        "goldfish",
    }


def test_bundled_weights_and_weights_without_class_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    backbone = build_backbone("mobilenet_v3_small", weights="bundled", image_size=64)
    assert reuse_rows(Head(1024, 1), backbone.pretraining, ("goldfish",), "auto") == {
        "goldfish": "goldfish, Carassius auratus"
    }
    monkeypatch.setattr(backbones, "sees_pooled_features", None)  # without names nobody asks
    torch.save(original("resnet18").state_dict(), tmp_path / "w.pth")
    pretraining = build_backbone("resnet18", weights=str(tmp_path / "w.pth"), image_size=32).pretraining
    assert (pretraining.classifier_weight is not None, pretraining.classifier_fits) == (True, False)


HEADS: dict[str, dict[str, Any]] = {
    "linear": {},
    "max": {"pooling": "max"},
    "mlp": {"hidden": [5, 4], "dropout": 0.5},
    "probe": {"normalize": True},
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_checkpoint_of_a_former_run(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A head of the same form starts as the former one, and the network gives the same probabilities."""
    torch.manual_seed(3)
    form = HEADS[kind]
    net = Classifier(
        build_backbone("resnet18", weights=None, image_size=64), Head(512, 3, **form), IMAGENET_MEAN, IMAGENET_STD
    )
    nn.init.normal_(net.head.linear.weight, std=0.1)
    lively(net.head)
    content = {
        "state_dict": {f"net.{key}": tensor for key, tensor in net.state_dict().items()},
        "tlab": {
            "classes": list(SOURCE),
            "image_size": 64,
            "config": {"head": {"pooling": form.get("pooling", "avg")}},
        },
    }
    torch.save(content, tmp_path / "best.ckpt")
    backbone = build_backbone("resnet18", weights=str(tmp_path / "best.ckpt"), image_size=64)
    head = Head(512, 3, **form)
    assert list(reuse_rows(head, backbone.pretraining, SOURCE, "auto")) == list(SOURCE)
    again = Classifier(backbone, head, IMAGENET_MEAN, IMAGENET_STD).eval()
    x = images(64).sigmoid()
    with torch.no_grad():
        assert torch.allclose(again(x).softmax(1), net.eval()(x).softmax(1), atol=1e-6)
    others = {name: Head(512, 3, **other) for name, other in HEADS.items() if name != kind}
    with caplog.at_level(logging.INFO, "tlab"):
        assert [reuse_rows(other, backbone.pretraining, SOURCE, "auto") for other in others.values()] == [{}] * 3
    assert all("they belong to another head: set " in line for line in caplog.messages)
    cut = build_backbone("resnet18", weights=str(tmp_path / "best.ckpt"), image_size=64, upto="layer3")
    assert not cut.pretraining.classifier_fits


def test_a_run_takes_rows_and_says_which(compose_run: Any, tmp_path: Path) -> None:
    """Through `train`: the rows are in run.json and the checkpoint can be read again."""
    from tlab.assembly.build import build_backbone, build_net
    from tlab.runs.load import load_trained
    from tlab.train import train

    torch.save(lively(original("resnet18", num_classes=3)).state_dict(), tmp_path / "w.pth")
    (tmp_path / "classes.json").write_text(json.dumps(["red", "sky, blue", "c"]))
    weights = (f"backbone.weights={tmp_path / 'w.pth'}", f"backbone.weights_classes={tmp_path / 'classes.json'}")
    train(compose_run(*weights, "trainer.max_epochs=1", "finetune=head", run_dir=tmp_path / "run"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["reused_rows"] == {"blue": "sky, blue", "red": "red"}
    load_trained(tmp_path / "run")

    data: Any = SimpleNamespace(classes=("blue", "green", "red"), num_classes=3)

    def built(*overrides: str) -> Any:
        cfg = compose_run(*overrides)
        return build_net(cfg, build_backbone(cfg), data)

    mapped = built(*weights, "head.reuse={green: c}")
    assert mapped.head.reused == {"green": "c"}
    for none in (("head.reuse=null",), ("head=mlp",), ("head.reuse={green: c}", "finetune=scratch")):
        assert built(*weights, *none).head.reused == {}
    with pytest.raises(UserError, match="random initialization has no source classifier: give other backbone"):
        built("head.reuse={green: c}")
