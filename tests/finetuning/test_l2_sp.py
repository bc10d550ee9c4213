"""Decay towards the pretrained weights: literal numbers, what it replaces, and resume."""

import copy
from functools import partial

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from tlab.config.validation import check
from tlab.core.errors import UserError
from tlab.data.batch import Batch
from tlab.finetuning import L2SP, AddressedRandomness, BackboneFinetuning, RunState, build_plan, schedules
from tlab.models.module import ImageClassifier

LP_FT = {"head": {"train": "head", "epochs": 1}, "all": {"train": "all", "epochs": None}}
FULL = {"all": {"train": "all", "epochs": None}}
DECAYING = partial(torch.optim.SGD, lr=1.0, weight_decay=0.1)


class Shift(L.Callback):
    """Moves all weights by 2 once L2SP has its copy, and takes the loss's own gradients away."""

    def on_fit_start(self, trainer, pl_module):
        with torch.no_grad():
            for parameter in pl_module.net.parameters():
                parameter.add_(2.0)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        for parameter in pl_module.net.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()


def moved(net, before):
    """Distance of each parameter from `before`, where it is one number."""
    distances = {name: parameter.detach() - before[name] for name, parameter in net.named_parameters()}
    assert all(torch.allclose(d, d.flatten()[0].expand_as(d), atol=1e-5) for d in distances.values())
    return {name: round(float(d.flatten()[0]), 5) for name, d in distances.items()}


def test_every_step_takes_its_share_of_the_way_back(net, fit):
    before = {name: parameter.detach().clone() for name, parameter in net.backbone.named_parameters()}
    fit(FULL, 1, schedules.constant, [Shift(), L2SP(0.25)], DECAYING)
    distances = moved(net.backbone, before)
    # rate 1 x backbone_lr_scale 0.5 x alpha 0.25, two steps: 2 x 0.875^2; norms and biases too, no weight decay
    assert len(distances) == 12
    assert set(distances.values()) == {1.53125}
    # the head has weight decay 0.1 (none on its bias) and nothing else: 2 x 0.9^2
    assert net.head.linear.weight.flatten()[0].item() == pytest.approx(1.62)
    assert net.head.linear.bias[0].item() == pytest.approx(2.0)


def test_frozen_stages_do_not_move_by_one_bit(net, fit):
    states = []

    class Note(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            states.append(copy.deepcopy(net.backbone.state_dict()))

    fit(LP_FT, 2, schedules.constant, [Shift(), L2SP(0.25), Note()], DECAYING)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    key = "stages.mid.0.weight"
    assert torch.allclose(net.backbone.state_dict()[key] - states[0][key], torch.tensor(1.53125 - 2.0), atol=1e-5)


@pytest.mark.parametrize("of_the_phase", [None, 0.3])
def test_weight_decay_goes_from_the_stages_only(fit, of_the_phase):
    """As each step applies it, also where the phase has a weight decay of its own."""
    decays = set()

    class Note(L.Callback):
        def on_fit_start(self, trainer, pl_module):
            trainer.optimizers[0].register_step_pre_hook(self.note)

        def note(self, optimizer, args, kwargs):
            decays.update((group["group"], group["weight_decay"]) for group in optimizer.param_groups)

    phases = {"all": {"train": "all", "epochs": None, "weight_decay": of_the_phase}}
    fit(phases, 1, schedules.constant, [L2SP(0.1), Note()], DECAYING)
    stages = {("stem", 0.0), ("mid", 0.0), ("top", 0.0)}
    assert decays == {*stages, ("head", of_the_phase or 0.1), ("head", 0.0)}


@pytest.mark.parametrize(
    ("clip", "moved_by"),
    [
        (None, 0.5 * 0.25 * 2.0),  # two batches make one step, and the penalty counts once in it
        (1.0, 0.5 / 510**0.5),  # its gradient, 0.5 in each of 510 numbers, is clipped to norm 1
    ],
)
def test_accumulation_and_clipping(net, clip, moved_by, tmp_path):
    before = {name: parameter.detach().clone() for name, parameter in net.backbone.named_parameters()}
    images = torch.randint(0, 256, (2, 4, 3, 8, 8), dtype=torch.uint8)
    batches = [Batch(x_BCHW, torch.arange(4) % 2, torch.arange(4)) for x_BCHW in images]
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=2,
        gradient_clip_val=clip,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[
            BackboneFinetuning(RunState(build_plan(FULL, 1, net.backbone.stage_names, 0.5))),
            Shift(),
            L2SP(0.25),
        ],
    )
    module = ImageClassifier(net, ("a", "b"), DECAYING, channels_last=False)
    trainer.fit(module, DataLoader(batches, batch_size=None))
    distances = moved(net.backbone, before)
    assert list(distances.values()) == pytest.approx([2.0 - moved_by] * 12, abs=2e-5)


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_resumed_run_decays_towards_the_same_weights(net, fit, tmp_path, epoch):
    """Bit for bit: the start is that of the run, not that of the checkpoint."""
    start = copy.deepcopy(net.state_dict())
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1)
    fit(LP_FT, 3, schedules.cosine, [AddressedRandomness(0), L2SP(0.5), keep], optimizer)
    whole = copy.deepcopy(net.state_dict())
    last = tmp_path / f"epoch={epoch}.ckpt"
    torch.load(last, weights_only=True)

    net.load_state_dict(start)
    fit(LP_FT, 3, schedules.cosine, [AddressedRandomness(0), L2SP(0.5)], optimizer, ckpt_path=last)
    assert [name for name, value in net.state_dict().items() if not torch.equal(value, whole[name])] == []

    with torch.no_grad():
        net.backbone.stages["top"][0].bias[0] += 1e-6
    with pytest.raises(UserError, match="weights are not those that this run began with"):
        fit(LP_FT, 3, schedules.cosine, [L2SP(0.5)], optimizer, ckpt_path=last)


def test_without_pretrained_weights_it_is_refused(compose_run):
    with pytest.raises(
        UserError, match=r"finetune.l2_sp=0\.1 decays towards pretrained weights, but backbone.weights"
    ):
        check(compose_run("finetune.l2_sp=0.1"))
    with pytest.raises(UserError, match=r"finetune.l2_sp=-1\.0 is too small"):
        check(compose_run("finetune.l2_sp=-1"))
    check(compose_run("finetune.l2_sp=0.1", "finetune=scratch"))  # a baseline, for which it is left out
    check(compose_run("finetune.l2_sp=0.1", "backbone.weights=DEFAULT"))
