"""tlab's losses against their equations, and what any loss has to be."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import nn

from tlab.core.errors import UserError
from tlab.data.batch import Batch
from tlab.models.losses import CrossEntropy, Focal, LogitAdjusted, OneHot, each, fitting
from tlab.models.module import ImageClassifier
from tlab.runs.load import build_loss

COUNTS = torch.tensor([80, 15, 5])
LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
NUMBERS = torch.tensor([0, 1, 2, 2, 1, 0])
SHARES = LOGITS.flip(0).softmax(1)


@pytest.mark.parametrize("target", [NUMBERS, SHARES], ids=["B", "B K"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 4.0])], ids=["", "weighted"])
@pytest.mark.parametrize(
    "build", [CrossEntropy, partial(Focal, gamma=0.0), partial(LogitAdjusted, COUNTS, tau=0.0)]
)
def test_without_its_parameter_each_is_cross_entropy(build, target, smoothing, weights):
    loss = build(label_smoothing=smoothing, class_weights=weights)
    expected = F.cross_entropy(LOGITS, target, weights, label_smoothing=smoothing)
    torch.testing.assert_close(loss(LOGITS, target), expected)
    plain = F.cross_entropy(LOGITS, target, reduction="none")  # neither smoothing nor weights
    torch.testing.assert_close(loss.eval()(LOGITS, target), plain)


def test_the_values_of_the_papers():
    logits = torch.tensor([0.9, 0.1]).log()[None]
    focal, adjusted = Focal(gamma=2.0).eval(), LogitAdjusted(torch.tensor([3, 1]), tau=2.0).eval()
    right, wrong, half = torch.tensor([0]), torch.tensor([1]), torch.tensor([[0.5, 0.5]])
    assert focal(logits, right).item() == pytest.approx(-(0.1**2) * math.log(0.9))
    assert focal(logits, wrong).item() == pytest.approx(-(0.9**2) * math.log(0.1))
    assert focal(logits, half).item() == pytest.approx(-0.5 * (0.01 * math.log(0.9) + 0.81 * math.log(0.1)))
    share = 0.1 * 1 / (0.9 * 9 + 0.1 * 1)  # pi = (3, 1) / 4 squared
    assert adjusted(logits, wrong).item() == pytest.approx(-math.log(share))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_an_answer_that_is_certain_has_a_gradient(gamma):
    logits = torch.tensor([[80.0, -80.0], [-80.0, 80.0]], requires_grad=True)
    Focal(gamma)(logits, torch.tensor([0, 0])).backward()
    assert logits.grad.isfinite().all()


def test_a_class_without_an_image_has_a_finite_loss():
    assert LogitAdjusted(torch.tensor([9, 0])).eval()(torch.zeros(1, 2), torch.tensor([1])).item() < 10


def test_one_number_for_a_batch_becomes_one_value_an_image():
    expected = F.cross_entropy(LOGITS, NUMBERS, reduction="none")
    torch.testing.assert_close(each(nn.CrossEntropyLoss(), LOGITS, NUMBERS), expected)
    assert torch.equal(each(nn.CrossEntropyLoss(reduction="none"), LOGITS, NUMBERS), expected)


def test_a_loss_of_probabilities_gets_class_numbers_as_such():
    loss = fitting(nn.BCEWithLogitsLoss(), "mine", 3, mixes=True, weighted=False)
    assert isinstance(loss, OneHot)
    expected = F.binary_cross_entropy_with_logits(LOGITS, F.one_hot(NUMBERS, 3).float())
    assert torch.equal(loss(LOGITS, NUMBERS), expected)


class Counting(nn.Module):
    """Has a parameter, and a state that each call changes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return F.cross_entropy(self.scale * logits, target, reduction="none")


def test_trying_a_loss_leaves_it_as_it_is():
    assert fitting(loss := Counting(), "mine", 3, mixes=True, weighted=True) is loss
    assert loss.calls == 0


@pytest.mark.parametrize(
    ("loss", "options", "words"),
    [
        (nn.MultiMarginLoss(), {"mixes": True}, "takes no probabilities"),
        (nn.CrossEntropyLoss(), {"weighted": True}, r"data\.class_weights=true needs one value an image"),
        (nn.BCEWithLogitsLoss(reduction="none"), {}, r"shape \(3, 4\)"),
        (lambda logits, target: 1.0, {}, "returns float"),
        (lambda logits, target: logits.detach().mean(), {}, "has no gradient"),
        (lambda logits: logits.mean(), {}, "cannot be computed"),
    ],
)
def test_what_is_no_loss_is_refused(loss, options, words):
    with pytest.raises(UserError, match=rf"loss\._target_=mine.*{words}"):
        fitting(loss, "mine", 4, **{"mixes": False, "weighted": False, **options})


class Named(Counting):
    """Asks for what is filled in."""

    def __init__(self, class_names: list[str], class_counts: torch.Tensor) -> None:
        super().__init__()
        self.named = dict(zip(class_names, class_counts.tolist(), strict=True))


def test_arguments_are_filled_in_as_they_are():
    cfg = OmegaConf.create({"loss": {"_target_": "test_losses.Named"}, "data": {"class_weights": True}})
    loss, weights = build_loss(cfg, ["${oc.env:HOME}", "???"], torch.tensor([3, 1]), mixes=False)
    assert loss.named == {"${oc.env:HOME}": 3, "???": 1}
    torch.testing.assert_close(weights, torch.tensor([4 / 6, 4 / 2]))


class Net(nn.Module):
    """Stands for a `Classifier` whose logits are its input."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, after: str = "") -> torch.Tensor:
        return x

    def parameter_groups(self) -> dict[str, dict[str, list[nn.Parameter]]]:
        return {"head": {"decay": [self.head.weight], "no_decay": [self.head.bias]}}


def module(loss, **options) -> ImageClassifier:
    return ImageClassifier(Net(), ("a", "b", "c"), partial(torch.optim.SGD, lr=0.1), loss, **options)


@pytest.mark.parametrize("target", [NUMBERS, SHARES], ids=["B", "B K"])
def test_class_weights_weigh_what_a_loss_returns(target):
    weights = torch.tensor([0.5, 1.0, 4.0])
    value, _ = module(Counting(), class_weights=weights).loss_of(Net(), Batch(LOGITS, target, NUMBERS))
    of_image = weights[target] if target.ndim == 1 else target @ weights
    values = F.cross_entropy(LOGITS, target, reduction="none")
    torch.testing.assert_close(value, (of_image * values).sum() / of_image.sum())
    if target.ndim == 1:
        torch.testing.assert_close(value, F.cross_entropy(LOGITS, target, weights))


def test_what_a_loss_has_to_train_joins_the_head():
    trained = module(loss := Counting())
    *_, last = trained.configure_optimizers().param_groups
    assert (last["params"], last["group"], last["weight_decay"]) == ([loss.scale], "head", 0.0)
    assert {"loss.scale", "loss.calls"} <= trained.state_dict().keys()
