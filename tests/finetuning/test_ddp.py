"""Processes that train together: they stay equal, and end as one process does, in every phase."""

import csv
import errno
import json
import os
import shutil
import weakref
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch

import tlab.train
from tlab.config.hydra import compose
from tlab.config.provenance import plain, resolved
from tlab.core.processes import run_in_processes
from tlab.data import image_cache
from tlab.data.feature_batches import FeatureBatches
from tlab.finetuning import BackboneFinetuning
from tlab.finetuning.ddp import agree, average, buffers_of_own, running_statistics, verify_equal
from tlab.finetuning.features import cache
from tlab.models.autotune import precision
from tlab.models.classifier import POOL
from tlab.models.stages import digest
from tlab.train import fit, train

pytestmark = pytest.mark.slow

EPOCHS = 4
NETS = {
    "plain": ("backbone=vgg11", "backbone.upto=block3"),  # without BatchNorm
    "batchnorm": ("backbone=resnet18",),
}
GRADUAL = """
head_epochs: 1
phases:
  head: {train: head, epochs: 1}
  one: {train: 1, epochs: 2}
  two: {train: 2, epochs: 1, lr_scale: 0.5}
"""
PLANS = {"lp_ft": ("finetune=lp_ft", "finetune.head_epochs=2", "loss=focal"), "gradual": ("finetune=stepwise",)}


class Watch(L.Callback):
    """Notes per epoch the digest of every group, and keeps what a run killed in epoch 2 would leave."""

    def __init__(self, copy_to=None):
        self.copy_to = copy_to
        self.epochs = {}
        self.wrappers = []  # one for each time that the module was wrapped, as long as it lives
        self.averaged = []  # per epoch, how many parameters train and how many gradients are averaged

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        wrapper = trainer.strategy.model
        if not self.wrappers or self.wrappers[-1]() is not wrapper:
            self.wrappers.append(weakref.ref(wrapper))
        if trainer.is_last_batch:
            trained = sum(parameter.requires_grad for parameter in pl_module.parameters())
            self.averaged.append([trained, wrapper._get_ddp_logging_data()["num_parameter_tensors"]])

    def on_train_epoch_start(self, trainer, pl_module):
        if self.copy_to is not None and trainer.current_epoch == 2 and trainer.is_global_zero:
            shutil.copytree(Path(trainer.default_root_dir) / "checkpoints", self.copy_to / "checkpoints")

    def on_train_epoch_end(self, trainer, pl_module):
        net = pl_module.net
        self.epochs[trainer.current_epoch] = {name: digest(net.group(name)) for name in net.group_names}


def watched_fits(jobs, notes):
    """Fit one run after the other; each process leaves what it saw below `notes`."""
    small_things(notes)
    build = tlab.train.build_trainer
    for name, job in jobs.items():
        watch = Watch(notes / "resumed" if name == "batchnorm-gradual" else None)
        extra = {"vandal": Vandal(), "contrary": Contrary()}.get(name, watch)

        def build_watched(*arguments, extra=extra, **options):
            trainer = build(*arguments, **options)
            trainer.callbacks.append(extra)
            return trainer

        tlab.train.build_trainer = build_watched
        if name == "vandal":
            with pytest.raises(RuntimeError, match="process 1 differs from process 0 in head after phase head"):
                fit(*job)
            continue
        if name == "contrary":
            fit_contrary(extra, job, notes / f"{name}-{os.environ['RANK']}.json")
            continue
        fit(*job)
        alive = [wrapper() is not None for wrapper in watch.wrappers]
        seen = {"epochs": watch.epochs, "averaged": watch.averaged, "alive": alive}
        (notes / f"{name}-{os.environ['RANK']}.json").write_text(json.dumps(seen))


class Vandal(L.Callback):
    """Changes one weight in the second process only."""

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.global_rank == 1:
            pl_module.net.head.linear.bias.data[0] += 1e-3


class Contrary(L.Callback):
    """Notes per phase where the batches come from."""

    def __init__(self):
        self.phases = {}

    def on_train_epoch_end(self, trainer, pl_module):
        train, val = trainer.datamodule.train_dataloader(), trainer.datamodule.val_dataloader()
        stored = [isinstance(loader.source, FeatureBatches) for loader in (train, val)]
        decoded = [loader.images.store is not None for loader in (train, val)]
        phase = next(c for c in trainer.callbacks if isinstance(c, BackboneFinetuning)).state.phase.name
        self.phases[phase] = {"stored": stored, "decoded": decoded}


def fit_contrary(watch, job, note):
    """Fit where the second process would answer otherwise, and cannot read what phase `one` has kept."""
    second, tf32, array = os.environ["RANK"] == "1", [], cache._Prefix.array

    def broken_array(self, source):
        if second and self.upto != POOL:
            raise OSError(errno.EIO, "broken disk")
        return array(self, source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "free_memory", lambda: 0 if second else 2**40)
        patch.setattr(cache._Prefix, "array", broken_array)
        patch.setattr(image_cache, "_reason_against", lambda *args: "" if second else "no need")
        patch.setattr(precision, "allow_tf32", tf32.append)
        fit(*job)
    note.write_text(json.dumps({"phases": watch.phases, "tf32": tf32}))


def small_things(notes):
    """Note what the second process gets from the functions, for which no run is needed."""
    rank = torch.distributed.get_rank()
    layers = torch.nn.Sequential(*(torch.nn.BatchNorm1d(1) for _ in range(2)), torch.nn.Linear(1, 1))
    layers[1].eval()
    for layer in layers[:2]:
        layer.running_mean.fill_(float(rank))
    average(list(running_statistics(layers)))
    verify_equal({"stem": "a", "head": "b"}, "now")
    try:
        verify_equal({"stem": f"{rank}", "mid": "b", "head": f"{rank}"}, "after phase x")
    except RuntimeError as error:
        message = str(error)
    means = [float(layer.running_mean) for layer in layers[:2]]
    own = Counting(rank)
    agree(list(buffers_of_own(torch.nn.ModuleList([own, Counting(rank).eval()]))))
    kept = [own.share.tolist(), own.seen.tolist()]
    (notes / f"small-{rank}.json").write_text(json.dumps({"means": means, "message": message, "own": kept}))


class Counting(torch.nn.Module):
    """A loss of a user that keeps statistics."""

    def __init__(self, rank):
        super().__init__()
        self.register_buffer("share", torch.tensor([0.1, 0.5 + rank]))
        self.register_buffer("seen", torch.tensor(3 + rank))


@pytest.fixture(scope="module")
def odd_photos(photos, tmp_path_factory):
    """36 training images and 25 validation images: two processes get 13 and 12, in 3 and 2 batches of 6."""
    root = tmp_path_factory.mktemp("odd") / "photos"
    shutil.copytree(photos, root)
    for i in range(7):
        shutil.copy(root / f"test/red/{i % 6:02}.png", root / f"val/red/more{i}.png")
    return root


@pytest.fixture(scope="module")
def compose_(odd_photos, tmp_path_factory):
    mine = tmp_path_factory.mktemp("conf")
    (mine / "finetune").mkdir()
    (mine / "finetune/stepwise.yaml").write_text(GRADUAL)

    def compose_(run_dir, *overrides, processes=2):
        quick = (
            *(f"data.root={odd_photos}", "data.image_size=32", f"data.batch_size={12 // processes}"),
            *("data.num_workers=0", "backbone.weights=null", "logger=none", f"run_dir={run_dir}", "aug=light"),
            f"hydra.searchpath=[file://{mine}]",
            *("head.solver=sgd", "head.dropout=0"),  # dropout differs in each process
            *("trainer=ddp", f"trainer.devices={processes}", "trainer.accelerator=cpu"),
            *("trainer.precision=32-true", f"trainer.max_epochs={EPOCHS}"),
            "checkpoint.every_n_steps=1000",  # with it every epoch ends with a checkpoint, however short
        )
        return compose([*quick, *overrides])

    return compose_


@pytest.fixture(scope="module")
def runs(compose_, tmp_path_factory):
    """Every net by every plan in two processes, and one of them once more from the checkpoint of its epoch 1."""
    folder = tmp_path_factory.mktemp("runs")
    settings = {f"{net}-{plan}": (*NETS[net], *PLANS[plan]) for net in NETS for plan in PLANS}
    settings["resumed"] = settings["batchnorm-gradual"]
    settings["contrary"] = (*NETS["plain"], *PLANS["gradual"])
    settings["vandal"] = (*NETS["plain"], "finetune=lp_ft", "finetune.head_epochs=1")
    jobs = {}
    for name, overrides in settings.items():
        cfg = compose_(folder / name, *overrides)
        jobs[name] = (resolved(cfg), plain(cfg), [])
    run_in_processes(watched_fits, (jobs, folder), 2, "gloo")
    return folder


def seen(runs, name, rank):
    return json.loads((runs / f"{name}-{rank}.json").read_text())


def weights(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def history(run):
    with (run / "history.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("plan", PLANS)
def test_processes_are_bitwise_equal_after_every_epoch(runs, net, plan):
    first, second = (seen(runs, f"{net}-{plan}", rank)["epochs"] for rank in (0, 1))
    assert list(first) == ["0", "1", "2", "3"]
    assert first == second
    trained = {
        name: [epoch for epoch in range(1, EPOCHS) if first[str(epoch)][name] != first[str(epoch - 1)][name]]
        for name in first["0"]
    }
    last, before = list(trained)[-2], list(trained)[-3]
    when = {"lp_ft": ([1, 2, 3], [2, 3], [2, 3]), "gradual": ([1, 2, 3], [1, 2, 3], [3])}[plan]
    assert (trained["head"], trained[last], trained[before]) == when


@pytest.mark.parametrize(
    ("name", "trained", "wrapped"),
    [
        ("plain-lp_ft", [2, 2, 10, 10], 2),  # tensors; the head's two, then those of four convolutions too
        ("plain-gradual", [2, 6, 6, 8], 3),
        ("batchnorm-gradual", [2, 17, 17, 32], 3),  # layer4 has 15 tensors, layer3 too
        ("resumed", [17, 32], 2),
    ],
)
def test_what_is_averaged_is_what_trains(runs, name, trained, wrapped):
    """And of the wrappers made for earlier phases none is left, whose hooks would average once more."""
    for rank in (0, 1):
        noted = seen(runs, name, rank)
        assert noted["averaged"] == [[count, count] for count in trained]
        assert len(noted["alive"]) == wrapped
        assert not any(noted["alive"][:-1])


@pytest.mark.parametrize("plan", PLANS)
def test_two_processes_end_as_one_does_with_the_same_global_batch(runs, compose_, tmp_path, plan):
    """Of a net without BatchNorm. Dropout is off, and the images are augmented by their addresses."""
    train(compose_(tmp_path / "one", *NETS["plain"], *PLANS[plan], processes=1))
    one, two = weights(tmp_path / "one"), weights(runs / f"plain-{plan}")
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-5
    for a, b in zip(history(tmp_path / "one"), history(runs / f"plain-{plan}"), strict=True):
        assert a["phase"] == b["phase"]
        assert a["val/acc"] == b["val/acc"]  # 25 images: one counted twice would show
        for name in ("train/loss", "train/acc", "val/loss", "val/f1", "lr/head", "lr/block3"):
            assert float(a[name]) == pytest.approx(float(b[name]), abs=1e-5)


def test_one_run_directory_with_each_epoch_once(runs):
    run = runs / "batchnorm-gradual"
    rows = history(run)
    assert [(row["epoch"], row["phase"]) for row in rows] == [
        ("0", "head"),
        ("1", "one"),
        ("2", "one"),
        ("3", "two"),
    ]
    assert {file.name for file in run.iterdir()} == {
        *("checkpoints", "confusion_test.csv", "confusion_val.csv", "data.csv", "history.csv", "metrics.json"),
        "run.json",
    }
    record = json.loads((run / "run.json").read_text())
    assert record["processes"] == 2
    right = [float(row["val/acc"]) * 25 for row in rows]
    assert right == pytest.approx([round(count) for count in right], abs=1e-4)


def test_a_resumed_run_ends_with_the_weights_of_the_whole_one(runs):
    """Resumed inside a phase that trains other parts than the first one does."""
    rows = history(runs / "resumed")
    assert [row["epoch"] for row in rows] == list("0123")
    whole, resumed = weights(runs / "batchnorm-gradual"), weights(runs / "resumed")
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []


def test_statistics_of_trained_batchnorms_are_averaged_and_frozen_ones_left_alone(runs):
    assert [seen(runs, "small", rank)["means"] for rank in (0, 1)] == [[0.5, 0.0], [0.5, 1.0]]


def test_statistics_of_a_users_own_loss_are_averaged(runs):
    """What is the same in both stays as it is, bit by bit; whole numbers are the first process's."""
    assert [seen(runs, "small", rank)["own"] for rank in (0, 1)] == [[torch.tensor([0.1, 1.0]).tolist(), 3]] * 2


def test_the_first_process_decides_for_the_other(runs):
    """Where features come from and what is decoded once; nobody waits for an answer."""
    first, second = (seen(runs, "contrary", rank) for rank in (0, 1))
    assert first == second
    assert first["tf32"] == [False]
    phases = first["phases"]
    assert phases["head"]["stored"] == [True, True]  # it would not fit, says the second one
    assert phases["one"]["stored"] == [False, False]  # which cannot read them
    for phase in phases.values():
        assert phase["decoded"] == [False, False]


def test_processes_that_differ_end_the_run_everywhere_alike(runs):
    """The fixture has asserted the same of a whole run, in which one process changes a weight."""
    messages = [seen(runs, "small", rank)["message"] for rank in (0, 1)]
    assert messages == ["process 1 differs from process 0 in stem, head after phase x"] * 2
