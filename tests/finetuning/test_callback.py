"""Who trains when, epoch by epoch, against literal tables; and what frozen means."""

from functools import partial

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tlab.errors import UserError
from tlab.finetuning import schedules

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
    _, finetuning = fit(LP_FT, 4, schedules.constant)
    assert [(r.name, r.trained, r.epochs, r.images) for r in finetuning.records] == [
        ("head", ["head"], 2, 16),
        ("all", ["stem", "mid", "top", "head"], 2, 16),
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
    assert [r.name for r in finetuning.records] == ["head", "all"]
    assert [r.epochs for r in finetuning.records] == [2, 3]
    for key, value in net.state_dict().items():
        assert torch.equal(value, whole[key]), key


class RandomState(L.Callback):
    """Dropout consumes torch's random state; seeding it per epoch stands in for restoring it."""

    def on_train_epoch_start(self, trainer, pl_module):
        torch.manual_seed(trainer.current_epoch)
