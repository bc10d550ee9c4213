"""Every plan with every scheduler runs to its end, and says nothing that nobody has to act on."""

import json
import logging
import re
import warnings

import pytest
import torch
from hydra.errors import InstantiationException

from tlab.core.error_messages import user_message
from tlab.core.errors import UserError
from tlab.train import train

PLANS = ("head", "lp_ft", "last", "gradual", "full", "scratch")
SCHEDULERS = ("none", "cosine", "onecycle", "step", "plateau")


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("plan", PLANS)
def test_a_normal_run_has_no_warning(compose_run, tmp_path, caplog, plan, scheduler):
    first = (
        ["finetune.head_epochs=1"]
        if plan in ("lp_ft", "gradual")
        else ["finetune.head_epochs=null"] * (plan == "head")
    )
    cfg = compose_run(
        "finetune.head_epochs=0",
        f"finetune={plan}",
        f"scheduler={scheduler}",
        "logger=tensorboard",
        "trainer.max_epochs=3",
        *first,
    )
    torch.set_warn_always(True)  # torch says some only once in a process, which may have been another test
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        metrics = train(cfg)
    torch.set_warn_always(False)
    assert [str(warning.message) for warning in said] == []
    said_elsewhere = ("traitlets",)  # by a notebook's client that another test has left to be collected
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.message for record in warned if record.name not in said_elsewhere] == []
    assert metrics["epochs"] == 3


def phases(run):
    return [(p["name"], p["trained"], p["epochs"]) for p in json.loads((run / "run.json").read_text())["phases"]]


def test_the_record_of_gradual_unfreezing(compose_run, tmp_path):
    train(compose_run("finetune=gradual", "backbone.upto=layer2", "trainer.max_epochs=4", "finetune.head_epochs=1"))
    assert phases(tmp_path / "run") == [
        ("head", ["head"], 1),
        ("unfreeze/layer2", ["layer2", "head"], 1),
        ("unfreeze/layer1", ["layer1", "layer2", "head"], 1),
        ("unfreeze/stem", ["stem", "layer1", "layer2", "head"], 1),
    ]


def test_the_last_stages_of_a_cut_backbone(compose_run, tmp_path):
    train(compose_run("finetune=last", "finetune.head_epochs=0", "finetune.last_stages=2", "backbone.upto=layer3"))
    assert phases(tmp_path / "run") == [("last", ["layer2", "layer3", "head"], 2)]


def test_a_head_that_is_trained_is_a_measured_fact(compose_run, tmp_path):
    until = "finetune.phases.head.until={monitor: val/loss, patience: 1, min_delta: 100}"
    train(compose_run(until, "finetune.head_epochs=5", "trainer.max_epochs=7"))
    assert [(name, epochs) for name, _, epochs in phases(tmp_path / "run")] == [("head", 2), ("all", 5)]


def test_early_stopping_counts_in_the_last_phase(compose_run, tmp_path):
    """A rate of 0 leaves the new head at zero, so that no epoch is better than another."""
    flat = ("optimizer.lr=0", "backbone.upto=stem", "trainer.max_epochs=9", "trainer.early_stopping=2")
    train(compose_run("finetune.head_epochs=3", *flat))
    assert [(name, epochs) for name, _, epochs in phases(tmp_path / "run")] == [("head", 3), ("all", 3)]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("finetune.phases.head.until={patience: two}", "head.until.patience=two is not a whole number"),
        ("finetune.phases.head.until={min_delta: foo}", "head.until.min_delta=foo is not a number"),
        ("finetune.phases.all.scheduler=5", "all.scheduler=5 is no list of the scheduler's keys"),
        ("finetune.phases.all.aug=strong", "all.aug=strong is no augmentation.*aug@finetune.phases.all.aug=strong"),
        ("finetune.phases.all.aug={mix: null}", "is no augmentation"),
        ("finetune.stage_lr_scales=0.5", "stage_lr_scales=0.5 is no list of numbers"),
        ("finetune.stage_lr_scales={stem: fast}", "is no list of numbers"),
        ("finetune.phases.all.lr_scale=nan", "finetune.phases.all.lr_scale=nan must not be negative"),
        ("optimizer.lr=nan", "optimizer.lr=nan is not a number"),
        ("trainer.limit_train_batches=1.5", "limit_train_batches=1.5 is neither"),
        ("trainer.early_stopping=0", "trainer.early_stopping=0 is too small"),
        ("finetune.head_epochs=0", "finetune.phases.all unfreezes the backbone before the head has trained"),
        (
            "finetune.phases.head.until={monitor: val/lost}",
            "finetune.phases.head.until.monitor=val/lost is not a metric",
        ),
        ("finetune.phases.all.train=[layer9]", "names layer9.*its stages are stem, layer1"),
        ("finetune.stage_lr_scales=[1, 2, 3]", "has 3 numbers for 2 stages"),
        ("backbone.upto=layer9", "backbone.upto=layer9 is no stage.*stem, layer1, layer2, layer3, layer4"),
        ("finetune.phases.all.scheduler={warm: 1}", "scheduler cannot be built.*warm"),
        ("finetune.phases.all.scheduler={warmup: 2}", "scheduler cannot be built.*warmup=2 is no share"),
    ],
)
def test_a_plan_that_cannot_be_is_one_sentence(compose_run, override, words):
    with pytest.raises((UserError, InstantiationException)) as raised:
        train(compose_run(override))
    assert re.search(words, user_message(raised.value))


def test_a_phase_may_have_another_augmentation(compose_run, tmp_path):
    """By Hydra's own means: any choice of the group aug at the phase's place."""
    plain = train(compose_run("aug=none", "finetune.head_epochs=2", "finetune=head", run_dir=tmp_path / "plain"))
    head = ["finetune=head", "finetune.head_epochs=2"]
    as_plain = train(compose_run(*head, "+aug@finetune.phases.head.aug=none", run_dir=tmp_path / "phase"))
    light = train(compose_run(*head, run_dir=tmp_path / "light"))
    assert as_plain["val/loss"] == plain["val/loss"] != light["val/loss"]


def test_a_phase_s_schedule_is_tried_before_anything_trains(compose_run, tmp_path):
    for scheduler, keys in (
        ("step", "{step_size: 0}"),
        ("plateau", "{monitor: val/x}"),
        ("onecycle", "{warmup: 1}"),
    ):
        cfg = compose_run(f"scheduler={scheduler}", f"finetune.phases.all.scheduler={keys}")
        with pytest.raises(UserError, match=r"\(finetune\.phases\.all\.scheduler\)"):
            train(cfg)
    assert not (tmp_path / "run/history.csv").exists()


def test_an_optimiser_without_weight_decay(compose_run):
    """Rprop has no such argument."""
    keys = ("~optimizer.momentum", "~optimizer.weight_decay", "~optimizer.nesterov")
    assert train(compose_run("optimizer._target_=torch.optim.Rprop", *keys))["epochs"] == 2
