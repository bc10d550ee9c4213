"""Pooling, dropout and layers of the head."""

import math

import pytest
import torch
import torch.nn.functional as F

from tlab.core.errors import UserError
from tlab.models.head import Head


def test_pooling() -> None:
    x_BCHW = torch.arange(16.0).reshape(1, 2, 2, 4)
    assert Head(2, 3).pool(x_BCHW).tolist() == [[3.5, 11.5]]
    assert Head(2, 3, pooling="max").pool(x_BCHW).tolist() == [[7.0, 15.0]]
    assert Head(2, 3, pooling="avgmax").pool(x_BCHW).tolist() == [[5.25, 13.25]]
    x_BNC = x_BCHW.flatten(2).mT
    assert Head(2, 3, pooling="max").pool(x_BNC).tolist() == [[7.0, 15.0]]
    assert Head(2, 3).pool(x_BNC[:, 0]).tolist() == [[0.0, 8.0]]


def test_first_loss_is_that_of_guessing() -> None:
    logits = Head(5, 7, hidden=[4])(torch.randn(3, 5))
    assert F.cross_entropy(logits, torch.tensor([0, 3, 6])).item() == pytest.approx(math.log(7))


@pytest.mark.parametrize("hidden", [[], [6], [6, 4]])
def test_a_zero_start_learns(hidden: list[int]) -> None:
    torch.manual_seed(0)
    head = Head(8, 3, hidden=hidden)
    x, y = torch.randn(30, 8), torch.arange(30) % 3
    optimizer = torch.optim.Adam(head.parameters(), 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(head(x), y).backward()
        optimizer.step()
    assert (head(x).argmax(1) == y).float().mean() > (0.6 if not hidden else 0.9)
    assert [layer.out_features for layer in head.modules() if isinstance(layer, torch.nn.Linear)] == [*hidden, 3]


def test_dropout_is_active_in_training_only() -> None:
    head = Head(8, 3, dropout=0.5)
    torch.nn.init.ones_(head.linear.weight)
    x = torch.rand(4, 8)
    assert torch.equal(head.eval()(x), head(x))
    assert not torch.equal(head.train()(x), head(x))


def test_a_probe_sees_standardised_features() -> None:
    head = Head(4, 3, normalize=True).train()
    x = torch.randn(64, 4) * torch.tensor([1e-3, 1.0, 50.0, 1e3]) + torch.tensor([0.0, 5.0, -3.0, 1e4])
    seen = head.norm(x)
    assert seen.mean(0).abs().max() < 1e-3
    assert (seen[:, 1:].var(0, correction=0) - 1).abs().max() < 1e-3
    assert [name for name, _ in head.named_parameters()] == ["linear.weight", "linear.bias"]


def test_a_probe_takes_a_batch_of_one() -> None:
    head = Head(4, 3, normalize=True).train()
    for _ in range(200):
        head(torch.randn(64, 4) * 3 + 2)
    before = head.norm.running_mean.clone()
    one = torch.full((1, 4), 5.0)
    assert torch.allclose(head.norm(one), torch.ones(1, 4), atol=0.15)
    assert torch.equal(head.norm.running_mean, before)


def test_the_global_seed_decides_the_hidden_layers() -> None:
    def built(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return Head(8, 3, hidden=[5]).hidden[1].weight

    assert torch.equal(built(1), built(1))
    assert not torch.equal(built(1), built(2))


@pytest.mark.parametrize("wrong", [{"pooling": "gem"}, {"dropout": 1.0}, {"hidden": [0]}])
def test_mistakes(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"head.{next(iter(wrong))}"):
        Head(8, 3, **wrong)  # type: ignore[arg-type]
