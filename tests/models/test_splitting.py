"""The general rule that finds stages, explicit maps, and networks that cannot be followed."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from originals import images, original
from torch import Tensor, nn

from tlab.core.errors import UserError
from tlab.models.backbones import build_backbone
from tlab.models.stages import Pretraining, StagedBackbone
from tlab.models.staging.splitting import split, whole
from tlab.models.staging.tracing import NotTraceableError


class Toy(nn.Module):
    """Four linear layers in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.three(self.two(self.one(x.flatten(1))).relu())))


class Branching(Toy):
    """Whose path depends on the data."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.shape[-1] < 9 else super().forward(x[..., :2, :2])


class OtherWhenTraining(Toy):
    """Whose path depends on the mode."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 2 if self.training else x)


class GlueDropout(Toy):
    """With dropout as a function, switched by the mode."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.one(x.flatten(1)), p=0.5, training=self.training)
        return self.fc(self.three(self.two(x)))


class Skip(Toy):
    """Where the output of `one` passes by `two` and `three`."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x.flatten(1))
        return self.fc(self.three(self.two(x)) + x)


class OneDropout(Toy):
    """Which calls the same dropout module in two stages."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.one(x.flatten(1)))
        return self.fc(self.three(self.drop(self.two(x))))


class MakesTensors(Toy):
    """Whose forward makes a tensor of no input, and one of a buffer."""

    def __init__(self, drawn: bool = False) -> None:
        super().__init__()
        self.drawn = drawn
        self.register_buffer("scale", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        made = torch.rand(8) if self.drawn and self.training else torch.tensor([float(i) for i in range(8)])
        shift = self.scale * 2 + made
        return self.fc(self.three(self.two(self.one(x.flatten(1)) + shift) * shift))


class TwoHeads(Toy):
    """Which averages two classifiers, as CrossViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.head_b = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x.flatten(1))
        return self.fc(x) + self.head_b(x)


def names(name: str, **options: object) -> list[str]:
    with torch.device("meta"):
        return list(split(original(name, **options))[0])


def test_the_rule_on_common_networks() -> None:
    assert names("resnet18") == ["conv1", "layer1", "layer2", "layer3", "layer4"]
    assert names("vgg11", init_weights=False)[-3:] == ["features_18", "classifier_0", "classifier_3"]
    assert names("vit_b_16")[:2] == ["conv_proj", "encoder_layers_encoder_layer_0"]
    assert len(names("vit_b_16")) == 13
    assert names("timm:convnext_atto") == ["stem", "stages_0", "stages_1", "stages_2", "stages_3"]
    assert names("mobilenet_v3_small")[-2:] == ["features_12", "classifier"]
    assert names("squeezenet1_1")[-1] == "features_12"


def test_norms_belong_to_the_stage_before() -> None:
    parts, classifier = split(Toy())
    assert list(parts) == ["one", "two", "three"]
    assert "norm.weight" in parts["three"].state_dict()
    assert classifier == "fc"


def test_crossing_tensors_merge_stages() -> None:
    model = Skip()
    parts, _ = split(model)
    assert list(parts) == ["one", "two"]  # x alone reaches `two`, but `three` and the sum after it need both
    assert set(parts["two"].state_dict()) == {"two.weight", "two.bias", "three.weight", "three.bias"}
    with pytest.raises(UserError, match=r"backbone.stages.b=three cannot begin a stage"):
        split(model, {"a": "one", "b": "three"})
    with pytest.raises(UserError, match=r"backbone.stages.b=nowhere .* there are one, two, three"):
        split(model, {"a": "one", "b": "nowhere"})


def test_the_classifier_may_be_given() -> None:
    parts, classifier = split(Toy(), classifier="three")
    assert (list(parts), classifier) == (["one", "two"], "three")


def test_pooling_opens_the_later_stage() -> None:
    """Cut before the hidden layer, the map is not pooled yet."""
    backbone = build_backbone("mobilenet_v3_small", weights=None, upto="features_12", image_size=64)
    assert backbone.stage_shapes(64)["features_12"] == (576, 2, 2)
    assert backbone.feature_dim == 576


def test_dropout_in_the_glue_follows_the_mode_of_its_stage() -> None:
    model = GlueDropout()
    parts, _ = split(model)
    backbone = StagedBackbone(parts, Pretraining(), 2)
    x = images(2, batch=64)
    backbone.eval()
    assert torch.equal(backbone(x), backbone(x))
    backbone.train()
    assert not torch.equal(backbone(x), backbone(x))
    backbone.stages["one"].eval()
    assert torch.equal(backbone(x), backbone(x))


def test_tensors_that_a_forward_makes_go_with_each_stage() -> None:
    model = MakesTensors()
    parts, _ = split(model)
    assert list(parts) == ["one", "two", "three"]
    assert not any("constant" in key for part in parts.values() for key in part.state_dict())
    model.load_state_dict({**model.state_dict(), "scale": torch.randn(8)})  # weights come after the cut
    backbone = StagedBackbone(parts, Pretraining(), 2)
    x = images(2)
    for twin in (backbone, copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert torch.equal(model.fc(twin(x)), model(x))


def test_a_tensor_that_is_drawn_anew_is_no_constant() -> None:
    with pytest.raises(NotTraceableError):
        split(MakesTensors(drawn=True))


def test_a_shared_dropout_is_not_shared_between_stages() -> None:
    parts, _ = split(OneDropout())
    parts["one"].eval()
    parts["two"].train()
    assert not parts["one"].drop.training
    assert parts["two"].drop.training


@pytest.mark.parametrize("kind", [Branching, OtherWhenTraining])
def test_a_forward_that_cannot_be_followed_is_one_stage(kind: type[Toy]) -> None:
    model = kind()
    with pytest.raises(NotTraceableError):
        split(model)
    x = images(2)
    classify, wanted = model.fc, model.eval()(x)
    parts, classifier = whole(model, 2)
    assert classifier == "fc"
    backbone = StagedBackbone(parts, Pretraining(), 2)
    assert backbone.stage_names == ("body",)
    assert torch.equal(classify(backbone(x)), wanted)
    assert "stages.body.one.weight" in backbone.state_dict()
    assert "stages.body.fc.weight" not in backbone.state_dict()


def test_two_classifiers_are_refused() -> None:
    with pytest.raises(UserError, match=r"does not return the features in front of head_b"):
        whole(TwoHeads(), 2)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"a": "conv1", "b": "layer1.0.conv1"}, "backbone.stages.b=layer1.0.conv1 is no module"),
        ({"a": "conv1", "b": "fc"}, "backbone.stages.b=fc is no module"),
        ({"a": "layer2", "b": "layer1"}, "in order"),
        ({"a": "conv1", "head": "layer1"}, "cannot name a stage"),
        ({"a.b": "conv1"}, "cannot name a stage"),
    ],
)
def test_wrong_maps(stages: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone("resnet18", weights=None, stages=stages, image_size=32)


def test_a_map_may_begin_inside_a_container() -> None:
    backbone = build_backbone(
        "resnet18", weights=None, stages={"low": "conv1", "high": "layer3", "last": "layer4.1"}, image_size=32
    )
    assert backbone.stage_names == ("low", "high", "last")
    assert "stages.high.layer4.0.conv1.weight" in backbone.state_dict()


def test_stages_survive_copying_and_pickling(resnet: StagedBackbone) -> None:
    x = images(32)
    resnet.eval()
    for twin in (copy.deepcopy(resnet), pickle.loads(pickle.dumps(resnet))):
        twin.eval()
        assert torch.equal(twin(x), resnet(x))
