"""Heads that are set to their optimum: head.solver=lbfgs."""

import re

import pytest
import torch
import torch.nn.functional as F

from tlab.assembly.build import build_data
from tlab.core.errors import UserError
from tlab.finetuning.plan import HEAD, build_plan
from tlab.runs.directory import RunDirectory
from tlab.runs.load import load_trained
from tlab.train import train

SOLVED = ("head.solver=lbfgs", "head.dropout=0.5")
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


def layout(phases, max_epochs):
    plan = build_plan(phases, max_epochs, STAGES).with_solved_heads()
    lengths = [plan.length(index, start) for index, start in enumerate(plan.starts)]
    return [(phase.name, length, phase.solved) for phase, length in zip(plan.phases, lengths, strict=True)]


@pytest.mark.parametrize(
    ("phases", "max_epochs", "expected"),
    [
        ({"head": {"train": "head", "epochs": None}}, 15, [("head", 1, True)]),
        (
            {"head": {"train": "head", "epochs": 3}, "all": {"train": "all", "epochs": None}},
            15,
            [("head", 1, True), ("all", 12, False)],
        ),
        (
            {"head": {"train": "head", "epochs": 3}, "up": {"train": "gradual", "epochs": None}},
            13,
            [("head", 1, True), *((f"up/{stage}", 2, False) for stage in reversed(STAGES))],
        ),
        ({"all": {"train": "all", "epochs": None}}, 4, [("all", 4, False)]),
    ],
)
def test_a_solved_phase_is_one_epoch_and_hands_none_on(phases, max_epochs, expected):
    assert layout(phases, max_epochs) == expected


def test_an_until_has_nothing_to_end():
    phase = {"train": HEAD, "epochs": 3, "until": {"monitor": "val/loss"}}
    with pytest.raises(UserError, match=r"finetune\.phases\.head\.until .* head\.solver=sgd"):
        build_plan({"head": phase, "all": {"train": "all", "epochs": 2}}, 5, STAGES).with_solved_heads()


@pytest.mark.parametrize("head", ["linear", "probe"])
def test_a_run_of_a_solved_head(compose_run, tmp_path, head):
    metrics = train(compose_run("finetune=head", f"head={head}", *SOLVED, "aug=none"))
    run = RunDirectory(tmp_path / "run")
    (row,) = run.history()
    assert row["solver"] == "lbfgs"
    assert int(row["iterations"]) > 1
    assert float(row["l2"]) > 0
    assert not any(name.startswith("lr/") for name in row)
    before, after = (run.record["phases"][0][f"digests_{when}"] for when in ("before", "after"))
    assert {name for name in before if after[name] != before[name]} == {HEAD}
    assert metrics["train/loss"] == pytest.approx(float(row["train/loss"]))
    assert metrics["train/acc"] == 1.0  # measured without dropout


def test_the_head_is_where_its_gradient_vanishes(compose_run, tmp_path):
    """On the features of the training images, as the network computes them, with the standardization folded in."""
    cfg = compose_run("finetune=head", *SOLVED, "aug=none", "data.class_weights=true")
    train(cfg)
    data = build_data(cfg)
    data.setup()
    net = load_trained(tmp_path / "run").module.net
    batches = list(data.loader("train"))
    with torch.no_grad():
        images = (batch.image.contiguous(memory_format=torch.channels_last) for batch in batches)
        x = torch.cat([net.prefix(image, "pool") for image in images])
    labels = torch.cat([batch.label for batch in batches])
    x = x.double()
    std = x.std(0, unbiased=False)
    usable = std > 1e-6 * std.max()
    z = ((x - x.mean(0)) / std)[:, usable]
    weight = (net.head.linear.weight.double() * std)[:, usable].detach().requires_grad_()
    bias = (net.head.linear.bias.double() + net.head.linear.weight.double() @ x.mean(0)).detach().requires_grad_()
    l2 = float(RunDirectory(tmp_path / "run").history()[0]["l2"])
    loss = F.cross_entropy(z @ weight.T + bias, labels, weight=data.class_weights().double(), reduction="sum")
    (loss + l2 / 2 * weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-2 * l2


def test_what_follows_a_solved_phase_trains_as_planned(compose_run, tmp_path):
    train(compose_run(*SOLVED, "finetune.head_epochs=2", "trainer.max_epochs=4"))
    rows = RunDirectory(tmp_path / "run").history()
    assert [(row["phase"], row.get("solver", "") or "") for row in rows] == [
        ("head", "lbfgs"),
        ("all", ""),
        ("all", ""),
    ]
    assert [row["lr/head"] == "" for row in rows] == [True, False, False]


@pytest.mark.parametrize(
    "override",
    [
        "head.hidden=[8]",
        "features.cache=off",
        "finetune.ema=0.9",
        "loss.label_smoothing=0.1",
        "aug.mix.mixup_alpha=0.2",
    ],
)
def test_what_it_cannot_solve_is_refused_with_the_way_out(compose_run, override):
    with pytest.raises(UserError, match=r"head\.solver=lbfgs") as caught:
        train(compose_run("finetune=head", *SOLVED, override))
    assert re.search(r"give head\.solver=sgd$", str(caught.value))
    train(compose_run("finetune=head", *SOLVED, override, "head.solver=sgd", "trainer.max_epochs=1"))
