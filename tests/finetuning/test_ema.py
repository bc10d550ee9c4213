"""The averaged weights: literal numbers, what is frozen, what checkpoints hold, and resume."""

import copy
import math
import warnings
from functools import partial

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from tlab.finetuning import EMA, AddressedRandomness, schedules
from tlab.finetuning.ema import RAW

LP_FT = {"head": {"train": "head", "epochs": 1}, "all": {"train": "all", "epochs": None, "lr_scale": 0.1}}
FULL = {"all": {"train": "all", "epochs": None}}
AND_BACK = {"all": {"train": "all", "epochs": 1}, "head": {"train": "head", "epochs": None}}
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


class Count(L.Callback):
    """Sets one weight and one BatchNorm buffer to the number of the step, before the average looks at them."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with torch.no_grad():
            pl_module.net.backbone.stages["mid"][0].bias.fill_(trainer.global_step)
            pl_module.net.backbone.stages["mid"][1].running_mean.fill_(10 * trainer.global_step)


def test_the_average_in_numbers(net, fit):
    with torch.no_grad():
        net.backbone.stages["mid"][0].bias.fill_(0.0)
    ema = EMA(0.25)
    averages = []

    class Note(L.Callback):
        def on_train_batch_end(self, *_):
            averages.append({name: tensor.clone() for name, tensor in ema.average.items()})

    fit(FULL, 2, schedules.constant, [Count(), ema, Note()], SGD)
    bias = [float(average["backbone.stages.mid.0.bias"][0]) for average in averages]
    mean = [float(average["backbone.stages.mid.1.running_mean"][0]) for average in averages]
    # d = min(0.25, 1/10, 2/11, 3/12, 4/13): 0.9 x 1, then 2/11 of that and 9/11 x 2, then a quarter and 3/4 x 3
    assert bias == pytest.approx([0.9, 1.8, 2.7, 3.675])
    assert mean == pytest.approx([9.0, 18.0, 27.0, 36.75])
    batches = [int(average["backbone.stages.mid.1.num_batches_tracked"]) for average in averages]
    assert batches == [1, 2, 3, 4]  # a count, not an average
    state = net.state_dict()
    assert all(torch.equal(state[name], value) for name, value in averages[-1].items())  # left after fit


def test_a_high_decay_warms_up(net, fit):
    ema = EMA(0.999)
    fit(FULL, 1, schedules.constant, [Count(), ema], SGD)
    assert net.backbone.stages["mid"][0].bias[0].item() == pytest.approx(0.9 * 2 / 11 + 2 * 9 / 11, rel=0.05)
    assert ema.steps == 2
    assert min(0.999, (1 + 8990) / (10 + 8990)) == 0.999
    assert (1 + 8989) / (10 + 8989) < 0.999


@pytest.mark.parametrize("phases", [LP_FT, AND_BACK], ids=["lp_ft", "refrozen"])
def test_frozen_stages_equal_those_of_the_weights_bit_by_bit(net, fit, phases):
    ema = EMA(0.9)
    frozen, start = [], copy.deepcopy(net.backbone.state_dict())

    class Compare(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if net.trainable == {"head"}:
                state = net.backbone.state_dict()
                frozen.append(all(torch.equal(ema.average[f"backbone.{k}"], state[k]) for k in state))
                if phases is LP_FT:
                    frozen.append(all(torch.equal(start[k], state[k]) for k in state))
                assert not torch.equal(ema.average["head.linear.weight"], net.head.linear.weight)

    _, finetuning = fit(phases, 2, schedules.constant, [ema, Compare()], SGD)  # verifies its digests in the end
    assert frozen
    assert all(frozen)
    assert [record.name for record in finetuning.state.records] == list(phases)


def test_training_does_not_see_the_average(net, fit, tmp_path):
    """The weights of each epoch are those of a run without, and validation is that of the average."""
    nn.init.normal_(net.head.linear.weight)
    start = copy.deepcopy(net.state_dict())
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    losses = []

    class Note(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            losses.append(float(trainer.callback_metrics["val/loss"]))

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", ".*(num_workers|does not have many workers|log_every_n_steps|`srun`).*")
        fit(LP_FT, 3, schedules.cosine, [AddressedRandomness(0), EMA(0.9), Note(), keep], SGD)
    checkpoints = [torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True) for epoch in range(3)]
    averaged = copy.deepcopy(net.state_dict())
    with_average, losses[:] = losses[:], []

    net.load_state_dict(start)
    plain = ModelCheckpoint(tmp_path, "plain-{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    trainer, _ = fit(LP_FT, 3, schedules.cosine, [AddressedRandomness(0), Note(), plain], SGD)
    for epoch, checkpoint in enumerate(checkpoints):
        without = torch.load(tmp_path / f"plain-epoch={epoch}.ckpt", weights_only=True)["state_dict"]
        assert same(checkpoint[RAW], without)
        assert not same(checkpoint["state_dict"], without)
        trainer.lightning_module.load_state_dict(checkpoint["state_dict"])
        loss = trainer.validate(trainer.lightning_module, trainer.val_dataloaders, verbose=False)[0]["val/loss"]
        assert loss == with_average[epoch] != losses[epoch]
    assert same(checkpoints[2]["state_dict"], {f"net.{name}": value for name, value in averaged.items()})


def same(state, other):
    assert state.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in state.items())


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_resumed_run_is_the_same_bit_by_bit(net, fit, tmp_path, step):
    """From the end of an epoch and from inside one (two steps make an epoch), before and after the unfreeze.

    Going on inside an epoch at the right image is not this callback's business: here all batches are alike, and
    there is no dropout.
    """
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    start = copy.deepcopy(net.state_dict())

    class Alike(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            batch.image.copy_(torch.arange(768).reshape(4, 3, 8, 8) % 256)

    def run(name, ckpt_path=None):
        keep = ModelCheckpoint(tmp_path, name + "{step}", save_top_k=-1, every_n_train_steps=1)
        ends = ModelCheckpoint(tmp_path, name + "end-{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        fit(LP_FT, 3, schedules.constant, [Alike(), EMA(0.9), keep, ends], SGD, ckpt_path=ckpt_path)
        return torch.load(tmp_path / f"{name}end-epoch=2.ckpt", weights_only=True)

    whole = run("whole-")
    net.load_state_dict(start)
    place = "end-epoch=0" if step == 2 else f"step={step}"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*dataloader is not resumable.*")
        resumed = run("resumed-", tmp_path / f"whole-{place}.ckpt")
    assert same(resumed[RAW], whole[RAW])
    assert same(resumed["state_dict"], whole["state_dict"])
    assert not same(whole[RAW], whole["state_dict"])
    assert resumed["callbacks"]["EMA"] == whole["callbacks"]["EMA"] == {"steps": 6, "seen": 6}


def test_a_checkpoint_inside_validation_holds_both(net, fit, tmp_path):
    """The network has the average then; a signal may ask for a checkpoint at any moment."""
    ema = EMA(0.9)

    class Save(L.Callback):
        def on_validation_batch_end(self, trainer, pl_module, *_):
            trainer.save_checkpoint(tmp_path / "inside.ckpt")

        def on_validation_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "outside.ckpt")

    fit(FULL, 1, schedules.constant, [ema, Save()], SGD)
    inside, outside = (torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("inside", "outside"))
    assert same(inside[RAW], outside[RAW])
    assert same(inside["state_dict"], outside["state_dict"])
    assert not same(inside[RAW], inside["state_dict"])


def test_a_step_is_one_of_the_optimiser(net, fit, tmp_path):
    """Batches that only accumulate do not move the average."""
    ema = EMA(0.9)
    averages = []

    class Note(L.Callback):
        def on_fit_start(self, trainer, pl_module):
            trainer.accumulate_grad_batches = 2

        def on_train_batch_end(self, *_):
            averages.append(ema.average["head.linear.weight"].clone())

    fit(FULL, 1, schedules.constant, [ema, Note()], SGD)
    assert ema.steps == 1
    assert not averages[0].any()
    assert averages[1].any()


def test_a_run_keeps_tests_and_reads_back_the_average(compose_run, tmp_path):
    """Through `train` and `load_trained`, with the plan that unfreezes."""
    from tlab.runs.load import load_trained
    from tlab.train import train

    metrics = train(compose_run("finetune.ema=0.9", "trainer.max_epochs=2", run_dir=tmp_path / "run"))
    assert math.isfinite(metrics["test/loss"])
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert not same(best[RAW], best["state_dict"])
    assert same(load_trained(tmp_path / "run").module.state_dict(), best["state_dict"])
