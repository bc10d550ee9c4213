"""Who trains when, epoch by epoch, against literal tables; and what frozen means."""

from functools import partial

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tlab.core.errors import UserError
from tlab.finetuning import BackboneFinetuning, PhaseRecord, RunState, Until, build_plan, schedules

LP_FT = {"head": {"train": "head", "epochs": 2}, "all": {"train": "all", "epochs": None, "lr_scale": 0.1}}
GRADUAL = {
    "head": {"train": "head", "epochs": 1},
    "top": {"train": 1, "epochs": 1},
    "mid": {"train": ["mid"], "epochs": 1},
    "all": {"train": "all", "epochs": None},
}
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1)


class Watch(L.Callback):
    """Notes per epoch which groups changed in any parameter, which in any buffer, and what has gradients."""

    def __init__(self, net):
        self.net = net
        self.table = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.before = {k: v.clone() for k, v in self.net.state_dict().items()}

    def on_train_epoch_end(self, trainer, pl_module):
        parameters, buffers = set(), set()
        names = dict(self.net.named_parameters())
        for key, value in self.net.state_dict().items():
            if not torch.equal(value, self.before[key]):
                (parameters if key in names else buffers).add(self.group(key))
        trainable = {self.group(key) for key, p in names.items() if p.requires_grad}
        with_grad = {self.group(key) for key, p in names.items() if p.grad is not None}
        assert with_grad <= trainable
        self.table.append((*(" ".join(sorted(s)) for s in (trainable, parameters, buffers)),))

    @staticmethod
    def group(key):
        return key.split(".")[2] if key.startswith("backbone.stages.") else key.split(".")[0]


ALL, STAGES = "head mid stem top", "mid stem top"
TABLES = {
    "lp_ft": (
        LP_FT,
        [("head", "head", ""), ("head", "head", ""), (ALL, ALL, STAGES), (ALL, ALL, STAGES)],
    ),
    "head": (
        {"head": {"train": "head", "epochs": None}},
        [("head", "head", "")] * 3,
    ),
    "full": ({"all": {"train": "all", "epochs": None}}, [(ALL, ALL, STAGES)] * 2),
    "gradual": (
        GRADUAL,
        [
            ("head", "head", ""),
            ("head top", "head top", "top"),
            ("head mid", "head mid", "mid"),
            (ALL, ALL, STAGES),
        ],
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_what_changes_in_each_epoch(fit, net, name):
    """(trainable, parameters that changed, buffers that changed); weight decay and momentum are on."""
    phases, expected = TABLES[name]
    watch = Watch(net)
    fit(phases, len(expected), schedules.constant, [watch], SGD, backbone_lr_scale=1.0)
    assert watch.table == expected


def test_adamw_leaves_a_stage_alone_that_is_frozen_again(fit, net):
    """Its state from the time before must not move the stage."""
    phases = {"all": {"train": "all", "epochs": 1}, "head": {"train": "head", "epochs": None}}
    watch = Watch(net)
    fit(phases, 3, schedules.constant, [watch], partial(torch.optim.AdamW, lr=0.01))
    assert watch.table == [(ALL, ALL, STAGES), ("head", "head", ""), ("head", "head", "")]


def test_a_frozen_stage_that_is_changed_fails_the_run(fit, net):
    class Vandal(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            net.backbone.stages["mid"][1].running_mean.add_(1e-3)

    with pytest.raises(RuntimeError, match="stage mid changed while phase head had it frozen"):
        fit(LP_FT, 4, schedules.constant, [Vandal()])


def test_a_stage_that_is_not_there_stops_before_training(fit):
    with pytest.raises(UserError, match=r"finetune\.phases\.top\.train names layer4.*stem, mid, top"):
        fit({"top": {"train": ["layer4"], "epochs": None}}, 2, schedules.constant)


def test_the_record_says_what_trained(fit):
    """Groups in forward order; a digest of each before and after, which changed exactly where it trained."""
    _, finetuning = fit({**LP_FT, "all": {"train": ["mid"], "epochs": None}}, 4, schedules.constant)
    assert [(r.name, r.trained, r.start, r.epochs) for r in finetuning.state.records] == [
        ("head", ["head"], 0, 2),
        ("all", ["mid", "head"], 2, 2),
    ]
    head, rest = finetuning.state.records
    assert list(head.digests_before) == ["stem", "mid", "top", "head"]
    assert rest.digests_before == head.digests_after
    for record, changed in ((head, ["head"]), (rest, ["mid", "head"])):
        before, after = record.digests_before, record.digests_after
        assert [name for name in before if before[name] != after[name]] == changed


class Losses(L.Callback):
    """Logs a loss per epoch from a list, for phases that a metric ends."""

    def __init__(self, values):
        self.values = values

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("val/made", self.values[trainer.current_epoch])


def head_until(patience, min_delta=0.0, epochs=6):
    until = {"monitor": "val/made", "patience": patience, "min_delta": min_delta, "mode": "min"}
    return {"train": "head", "epochs": epochs, "until": until}


@pytest.mark.parametrize(
    ("until", "losses", "epochs"),
    [
        (head_until(2), [5, 4, 4, 4, 9, 9, 9, 9], [4, 4]),  # two epochs without improvement, then the rest
        (head_until(1), [5, 4, 3, 2, 1, 0, 9, 9], [6, 2]),  # always better: its full length
        (head_until(1, min_delta=2), [5, 4, 9, 9, 9, 9, 9, 9], [2, 6]),  # better, but by too little
        (head_until(2), [5, 6, 4, 6, 3, 6, 9, 9], [6, 2]),  # never twice in a row
    ],
)
def test_a_phase_ends_when_its_metric_has_stopped_improving(fit, until, losses, epochs):
    phases = {"head": until, "all": {"train": "all", "epochs": None}}
    _, finetuning = fit(phases, 8, schedules.constant, [Losses(losses)])
    assert [r.epochs for r in finetuning.state.records] == epochs
    assert [r.start for r in finetuning.state.records] == [0, epochs[0]]


def test_a_last_phase_that_has_stopped_improving_ends_the_run(fit):
    trainer, finetuning = fit(
        {"head": head_until(2, epochs=None)}, 8, schedules.constant, [Losses([3, 2, 2, 2, 1])]
    )
    assert [r.epochs for r in finetuning.state.records] == [4]
    assert trainer.current_epoch == 4


def test_the_schedule_of_the_rest_is_stretched_over_what_is_left(fit):
    """The head's phase ends after 2 of up to 4 epochs, so everything has 4 epochs instead of 2: 8 steps."""
    phases = {"head": head_until(1, epochs=4), "all": {"train": "all", "epochs": None}}
    rows = []

    class Rates(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 0:
                rows.append(finetuning_of(trainer).state.rates["top"])

    cosine = partial(schedules.cosine, warmup=0.0)
    fit(phases, 6, cosine, [Losses([1, 2, 3, 3, 3, 3]), Rates()], backbone_lr_scale=1.0)
    assert rows == pytest.approx([0.0, 0.0, 1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


@pytest.mark.parametrize("epoch", [0, 1, 2, 3, 4])
def test_a_run_whose_phases_a_metric_ends_resumes(fit, net, tmp_path, epoch):
    phases = {"head": head_until(2), "all": {**head_until(2, epochs=None), "train": "all"}}
    start = {k: v.clone() for k, v in net.state_dict().items()}
    losses = Losses([3, 4, 4, 2, 3, 3, 1, 1])
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    fit(phases, 8, schedules.cosine, [keep, losses, RandomState()])
    whole = {k: v.clone() for k, v in net.state_dict().items()}

    net.load_state_dict(start)
    checkpoint = tmp_path / f"epoch={epoch}.ckpt"
    _, finetuning = fit(phases, 8, schedules.cosine, [losses, RandomState()], ckpt_path=checkpoint)
    assert [r.epochs for r in finetuning.state.records] == [3, 3]
    assert all(torch.equal(value, whole[key]) for key, value in net.state_dict().items())


def test_what_early_stopping_of_an_earlier_version_has_waited_is_counted():
    """There the last phase had no `until`, so its record has counted nothing."""
    phases = {"head": {"train": "head", "epochs": 1}, "all": {"train": "all", "epochs": None}}
    plan = build_plan(phases, 9, ("stem",), early_stopping=Until("val/loss", 3, mode="min"))
    state = RunState(plan, [PhaseRecord("head", ["head"], 0, 1, 1), PhaseRecord("all", ["stem", "head"], 1, 8, 3)])
    state.rows = [
        {"epoch": epoch, "phase": phase, "val/loss": loss}
        for epoch, (phase, loss) in enumerate([("head", 0.1), ("all", 0.5), ("all", 0.4), ("all", 0.6)])
    ]
    BackboneFinetuning(state)._recount()
    assert (state.records[1].best, state.records[1].waited) == (0.4, 1)
    assert state.records[0].best is None


def finetuning_of(trainer):
    return next(c for c in trainer.callbacks if isinstance(c, BackboneFinetuning))


def test_a_phase_has_its_own_weight_decay_and_schedule(fit, net):
    """Read inside the optimiser's step, where they apply; biases and norms keep 0."""
    phases = {
        "head": {"train": "head", "epochs": 1, "weight_decay": 0.5, "scheduler": {"warmup": 0.5}},
        "all": {"train": "all", "epochs": None},
    }
    seen = []

    class Look(L.Callback):
        def on_fit_start(self, trainer, pl_module):
            trainer.optimizers[0].register_step_pre_hook(self.look)

        def look(self, optimizer, args, kwargs):
            seen.append([(group["lr"], group["weight_decay"]) for group in optimizer.param_groups[-2:]])

    fit(phases, 2, schedules.constant, [Look()], partial(torch.optim.SGD, lr=1.0, weight_decay=0.1))
    # 2 steps an epoch: half of them warm up, so the first step has half the rate
    assert seen == [
        [(0.5, 0.5), (0.5, 0.0)],
        [(1.0, 0.5), (1.0, 0.0)],
        [(1.0, 0.1), (1.0, 0.0)],
        [(1.0, 0.1), (1.0, 0.0)],
    ]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle", "step", "plateau"])
@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_a_resumed_run_ends_with_the_same_weights(fit, net, tmp_path, schedule, epoch):
    """Stopped after any epoch (before, at and after the unfreeze) and gone on with, bit for bit."""
    build = getattr(schedules, schedule)
    start = {k: v.clone() for k, v in net.state_dict().items()}
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    states = [RandomState()]
    fit(LP_FT, 5, build, [keep, *states], SGD)
    whole = {k: v.clone() for k, v in net.state_dict().items()}

    net.load_state_dict(start)
    _, finetuning = fit(LP_FT, 5, build, [RandomState()], SGD, ckpt_path=tmp_path / f"epoch={epoch}.ckpt")
    assert [r.name for r in finetuning.state.records] == ["head", "all"]
    assert [r.epochs for r in finetuning.state.records] == [2, 3]
    for key, value in net.state_dict().items():
        assert torch.equal(value, whole[key]), key


class RandomState(L.Callback):
    """Dropout consumes torch's random state; seeding it per epoch stands in for restoring it."""

    def on_train_epoch_start(self, trainer, pl_module):
        torch.manual_seed(trainer.current_epoch)
