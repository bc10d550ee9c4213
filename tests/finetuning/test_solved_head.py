"""Heads that are set to their optimum: head.solver=lbfgs, and when head.solver=auto does that."""

import logging
import re

import pytest
import torch
import torch.nn.functional as F

import tlab
from test_resume import assert_alike, crashing
from tlab.assembly.build import build_data
from tlab.config.head_solver import as_overrides_ask, as_values_ask, solver
from tlab.core.errors import UserError
from tlab.finetuning.features import cache
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
        "finetune.phases.head.until={monitor: val/loss}",
    ],
)
def test_what_it_cannot_solve_is_refused_with_the_way_out(compose_run, override):
    with pytest.raises(UserError, match=r"head\.solver=lbfgs") as caught:
        train(compose_run("finetune=head", *SOLVED, override))
    assert re.search(r"give head\.solver=sgd$", str(caught.value))
    train(compose_run("finetune=head", *SOLVED, override, "head.solver=sgd", "trainer.max_epochs=1"))


AUTO = ("finetune=head", "finetune.head_epochs=null", "head.solver=auto", "aug=none")


@pytest.fixture
def said(caplog):
    """Return what the log says of the head's solver, by a function."""
    caplog.set_level(logging.INFO, "tlab")
    return lambda: [record.getMessage() for record in caplog.records if "head.solver=auto" in record.getMessage()]


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=0.03",
        "optimizer=sgd",
        "+optimizer.dampening=0",
        "scheduler=cosine",
        "scheduler.warmup=0.1",
        "head.dropout=0.5",
        "loss.label_smoothing=0",
        "loss={label_smoothing: 0}",
        "aug.mix.p=1.0",
        "finetune.phases.head.until.patience=3",
        "finetune.phases={head: {until: {monitor: val/loss}}}",
    ],
)
def test_what_only_steps_use_asks_for_them(compose_run, said, override):
    cfg = compose_run(*AUTO)
    assert solver(as_overrides_ask(cfg, ["data.root=photos", override])) == "sgd"
    (line,) = said()
    key = override.lstrip("+").partition("=")[0]
    assert re.match(rf"head: trained by steps, since {re.escape(key)}\S* is given", line)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["optimizer.lr=0.02"], "optimizer.lr is given"),
        (["experiment=demo"], "optimizer is given"),
        (["head.dropout=0.1"], "head.dropout is given"),
        (["head=probe", "head.dropout=0.5"], "head.dropout is given"),
        (["finetune.phases.head.weight_decay=0.1"], "finetune.phases.head.weight_decay is given"),
        (["trainer.gradient_clip_val=1"], "trainer.gradient_clip_val is given"),
        (["head.hidden=[8]"], "head.hidden=[8]"),
        (["head._target_=mine.Head"], "head._target_=mine.Head"),
        (["trainer.limit_val_batches=1"], "limit_val_batches"),
        (["finetune=full"], ""),
        (["finetune=last", "finetune.head_epochs=0"], ""),
        (["head=probe"], None),
        (["finetune.head_epochs=2"], None),
        (["trainer.early_stopping=1"], None),
        (["finetune=gradual", "trainer.max_epochs=6", "trainer.gradient_clip_val=1"], None),
        (["data.class_weights=true", "data.balanced=true"], None),
    ],
)
def test_values_of_yaml_files_and_of_python_decide_where_no_override_is_known(compose_run, said, overrides, reason):
    """None: the images decide; an empty reason: there is no phase of the head alone."""
    plan = [] if "experiment" in overrides[0] else ["finetune=head"]
    cfg = compose_run("head.solver=auto", *plan, *overrides)
    assert solver(as_values_ask(cfg)) == ("auto" if reason is None else "sgd")
    assert len(said()) == bool(reason)
    assert not reason or reason in said()[0]


def test_a_head_that_trains_alone_later_is_trained_by_steps(compose_run, said):
    cfg = compose_run("head.solver=auto", "finetune.phases.head.train=all", "finetune.phases.all.train=head")
    assert solver(as_values_ask(cfg)) == "sgd"
    assert "finetune.phases.all" in said()[0]


def test_in_python_the_overrides_of_compose_decide(photos):
    assert tlab.compose(f"data.root={photos}", "optimizer.lr=0.03").head.solver == "sgd"
    assert tlab.compose(f"data.root={photos}", "optimizer.lr=0.03", "head.solver=lbfgs").head.solver == "lbfgs"
    assert tlab.compose(f"data.root={photos}").head.solver == "auto"


@pytest.mark.parametrize("more", [(), ("trainer.early_stopping=1", "checkpoint.monitor=val/f1")])
def test_by_default_the_head_is_solved_in_one_epoch(compose_run, tmp_path, said, more):
    train(compose_run(*AUTO, "trainer.max_epochs=5", *more))
    run = RunDirectory(tmp_path / "run")
    (row,) = run.history()
    assert row["solver"] == "lbfgs"
    assert said() == ["head: solved at its optimum (head.solver=auto); head.solver=sgd trains it"]
    assert run.record["config"]["head"]["solver"] == "lbfgs"
    assert "solver: lbfgs" in (run.path / ".hydra" / "config.yaml").read_text(encoding="utf-8")
    assert torch.load(run.best, weights_only=True)["tlab"]["config"]["head"]["solver"] == "lbfgs"


@pytest.mark.parametrize("solved", [True, False])
def test_a_run_that_is_resumed_keeps_its_solver(compose_run, tmp_path, solved):
    """Whatever the command line now says."""
    cfg = compose_run("head.solver=auto", "aug=none", "trainer.max_epochs=3", "finetune.head_epochs=2")
    one, other = ([], ["optimizer.lr=0.03"]) if solved else (["optimizer.lr=0.03"], [])
    train(cfg, one)
    run = RunDirectory(tmp_path / "run")
    rows = run.history()
    assert len(rows) == (2 if solved else 3)
    run.metrics_file.unlink()
    run.update(status="running")
    train(cfg, other)
    assert run.history() == rows
    assert run.record["config"]["head"]["solver"] == ("lbfgs" if solved else "sgd")
    assert cfg.head.solver == "auto"


@pytest.mark.parametrize("reason", ["features.max_gb", "memory", "long", "aug.mix", "pickled", "not stored"])
def test_where_no_features_can_be_kept_it_trains_by_steps_from_the_start(
    compose_run, tmp_path, said, monkeypatch, reason
):
    more = {"features.max_gb": ["features.max_gb=1e-6"], "aug.mix": ["aug.mix.cutmix_alpha=1"]}.get(reason, [])
    if reason == "memory":
        monkeypatch.setattr(cache, "free_memory", lambda: 1)
    if reason == "long":
        monkeypatch.setattr(cache, "QUICK_UP_TO", 1)
    if reason == "pickled":
        monkeypatch.setattr(cache.fingerprint, "of_transforms", lambda _: None)
    if reason == "not stored":

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(cache, "fill", full)
        monkeypatch.setenv("TLAB_CACHE", str(tmp_path))
    train(compose_run(*AUTO, *more), [])
    run = RunDirectory(tmp_path / "run")
    assert [row.get("solver") for row in run.history()] == [None, None]
    assert run.record["config"]["head"]["solver"] == "sgd"
    assert "since" in said()[-1]
    assert reason in said()[-1]


def test_a_solved_head_is_not_asked_for_a_rate(compose_run, caplog):
    caplog.set_level(logging.INFO, "tlab")
    train(compose_run(*AUTO, "find_lr=true"))
    assert any("no optimizer.lr suggested, the head is solved" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("crash", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_run_that_crashed_in_or_after_its_solved_phase_goes_on_there(compose_run, tmp_path, monkeypatch, crash):
    """Three steps an epoch; the command line that goes on names a rate, which changes nothing."""
    plan = ("finetune.head_epochs=2", "trainer.max_epochs=3", "head.solver=auto", "checkpoint.every_n_steps=1")
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(compose_run(*plan, run_dir=whole), [])
    cfg = compose_run(*plan, run_dir=run)
    with crashing(monkeypatch, crash):
        train(cfg, [])
    train(cfg, ["optimizer.lr=0.03"])
    assert_alike(run, whole)
