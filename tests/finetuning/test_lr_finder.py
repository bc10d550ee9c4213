"""The learning-rate finder: a literal curve, and no trace of it in a run."""

import csv
import itertools
import logging
import math
import random
from functools import partial

import numpy as np
import pytest
import torch

from tlab.core.errors import UserError
from tlab.data.batch import Batch
from tlab.finetuning import lr_finder
from tlab.finetuning.lr_finder import find_lr, range_test, smooth, suggest, trial_loader
from tlab.models.module import ImageClassifier
from tlab.runs.history import RunRecorder
from tlab.train import train

ONE = {"stem": 1.0, "mid": 1.0, "top": 1.0, "head": 1.0}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 128, (8, 3, 8, 8), dtype=torch.uint8, generator=generator)
    images[::2, 0] += 120  # one class is redder
    return Batch(images, torch.arange(8) % 2, torch.arange(8))


@pytest.fixture
def module(net):
    torch.nn.init.normal_(net.head.linear.weight)  # at zero, as it starts, the first loss tells nothing
    return ImageClassifier(net, ("a", "b"), partial(torch.optim.SGD, lr=0.05), channels_last=False)


def measure(module, batch, scales=ONE, start=lr_finder.START, end=lr_finder.END, **options):
    """A range test on one batch over and over, from the same random state."""
    torch.manual_seed(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lr_finder, "START", start)
        patch.setattr(lr_finder, "END", end)
        return find_lr(module, itertools.repeat(batch), scales, **options)


@pytest.mark.parametrize("curvature", [0.5, 4.0, 60.0])
def test_a_quadratic(curvature):
    """Plain SGD on curvature/2 * x**2 multiplies x by 1 - rate * curvature.

    With k = ln(rate ratio of two steps) the loss is near exp(-2 * curvature * rate / k), which falls fastest
    over ln(rate) at rate = k / (2 * curvature); above 2 / curvature it grows.
    """
    x = torch.tensor(3.0, requires_grad=True)
    optimizer = torch.optim.SGD([x])

    def step(rate, batch):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = 0.5 * curvature * x.square()
        loss.backward()
        optimizer.step()
        return loss.item()

    rates, losses = range_test(step, itertools.repeat(None), 1e-6, 100.0, 161)
    assert rates[0] == pytest.approx(1e-6)
    assert rates[20] == pytest.approx(1e-5)  # 20 steps a decade
    steepest = math.log(10) / 20 / (2 * curvature)
    suggestion, why = suggest(rates, losses)
    assert steepest / 1.5 < suggestion < steepest * 1.5
    assert why == ""
    assert 2 / curvature < rates[-1] < 20 / curvature  # the moving average sees it within a decade
    assert len(losses) == len(rates)
    assert losses[-1] > 10 * min(losses[-10:])


def test_a_loss_that_is_not_finite_ends_the_test():
    losses = iter([1.0, 0.9, math.nan])
    assert range_test(lambda rate, batch: next(losses), itertools.repeat(None), 1.0, 100.0, 5) == (
        [1.0, pytest.approx(10**0.5)],
        [1.0, 0.9],
    )


def test_the_test_ends_at_four_times_the_best():
    """After 20 steps at 1 the moving average needs 5 steps at 9 to pass 4: 9 - 8 * 0.9**5 / (1 - 0.9**25) > 4."""
    losses = [1.0] * 20 + [9.0] * 30
    _, seen = range_test(lambda rate, loss: loss, losses, 1.0, 10.0, 50)
    assert len(seen) == 25


def test_one_easy_batch_at_the_start_is_no_divergence():
    losses = [0.01] + [0.5] * 49
    _, seen = range_test(lambda rate, loss: loss, losses, 1.0, 10.0, 50)
    assert len(seen) == 50


def test_smoothing_neither_lags_nor_pulls():
    assert smooth([2.0] * 30) == pytest.approx([2.0] * 30)
    ramp = [float(i) for i in range(61)]
    assert smooth(ramp)[30] == pytest.approx(30.0)
    step = smooth([1.0] * 30 + [0.0] * 31)
    assert int(np.gradient(step).argmin()) in (29, 30)


def test_a_fall_is_found_where_it_is_steepest():
    rates = np.geomspace(1e-6, 10, 100)
    losses = [1 / (1 + rate / 1e-2) for rate in rates]  # logistic in ln(rate), steepest at 1e-2
    suggestion, _ = suggest(rates.tolist(), losses)
    assert suggestion == pytest.approx(1e-2, rel=0.2)


@pytest.mark.parametrize(
    ("losses", "why"),
    [
        ([1.0 + 0.1 * (-1) ** i for i in range(60)], "never fell by more than its scatter"),
        ([1.0 + 0.01 * i for i in range(60)], "never fell"),
        ([1.0, 50.0], "diverged within 2 steps"),
        ([], "diverged within 0 steps"),
    ],
)
def test_no_suggestion_without_a_fall(losses, why):
    suggestion, reason = suggest(np.geomspace(1e-6, 10, max(2, len(losses))).tolist(), losses)
    assert suggestion is None
    assert why in reason


def test_rates_are_values_of_optimizer_lr_whatever_the_scale(module, batch):
    """The curve of a scale of 0.1 is that of 1 at ten times the rate; a scale of 0 holds a group still."""
    whole = measure(module, batch, start=1e-3, end=0.1, steps=20)
    tenth = measure(module, batch, dict.fromkeys(ONE, 0.1), start=1e-2, end=1.0, steps=20)
    assert tenth.losses == pytest.approx(whole.losses, rel=1e-4)
    assert tenth.rates == pytest.approx([10 * rate for rate in whole.rates])
    assert whole.in_use == 0.05
    head = measure(module, batch, {**dict.fromkeys(ONE, 0.0), "head": 1.0}, start=1e-3, end=0.1, steps=20)
    assert head.losses[1:] != pytest.approx(whole.losses[1:], rel=1e-4)


def test_a_clipped_gradient_moves_little(module, batch):
    module.net.set_trainable(["head"])  # no dropout, and BatchNorm stands still
    free = measure(module, batch, start=0.1, end=10.0, steps=20)
    clipped = measure(module, batch, start=0.1, end=10.0, steps=20, gradient_clip_val=1e-7)
    assert free.losses[-1] < free.losses[0] - 0.005
    assert clipped.losses == pytest.approx([free.losses[0]] * 20, abs=1e-5)


def test_precision_is_the_runs(module, batch):
    module.net.set_trainable(["head"])
    full, half = (measure(module, batch, steps=2, precision=p).losses[0] for p in ("32-true", "bf16-mixed"))
    assert full != half
    assert full == pytest.approx(half, rel=0.02)


class Counting(torch.nn.Module):
    """A loss with something to train, and a state that each call changes."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, logits, target):
        self.calls += 1
        return torch.nn.functional.cross_entropy(self.scale * logits, target)


def test_the_module_and_the_random_state_stay_as_they_are(module, batch):
    module.loss = Counting()
    module.net.set_trainable(["top", "head"])
    module.net.eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}

    def batches():
        while True:
            random.random(), np.random.rand(), torch.rand(1)  # as a user's transform may
            yield batch

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = (random.random(), np.random.rand(), torch.rand(1).item())
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    find_lr(module, batches(), ONE, steps=12)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not module.net.training
    assert module.net.trainable == {"top", "head"}


def keys_of(loader):
    return [(key.epoch, key.index) for key in loader.sampler]


def test_batches_are_those_of_the_epochs_to_come(photos):
    from tlab.data.datamodule import ImageDataModule
    from tlab.data.sources.folder import folder_index

    data = ImageDataModule(partial(folder_index, photos), image_size=16, batch_size=10, num_workers=0)
    data.setup()
    loader = data.loader("train", train=True)
    trial = trial_loader(loader, epoch=2, steps=5)  # 36 images: 3 whole batches of an epoch
    order = [loader.sampler.keys(epoch) for epoch in (2, 3)]
    assert keys_of(trial) == [(key.epoch, key.index) for key in order[0][:30] + order[1][:20]]
    assert trial.images is loader.images  # as the current phase augments them
    assert [len(batch.image) for batch in trial] == [10] * 5
    assert loader.sampler.epoch == 0
    small = ImageDataModule(partial(folder_index, photos), image_size=16, batch_size=50, num_workers=0)
    small.setup()
    trial = trial_loader(small.loader("train", train=True), epoch=0, steps=3)
    assert [len(batch.image) for batch in trial] == [36] * 3


MIXED = ("backbone.upto=layer1", "aug.mix.mixup_alpha=0.4", "head.dropout=0.5", "trainer.max_epochs=3")


def content(run):
    """What a run leaves but for times: weights, optimiser, callbacks; rows; files."""
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    with (run / "history.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    timeless = [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]
    schedule = checkpoint["callbacks"]["BackboneFinetuning"]["scheduler"]
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if "tfevents" not in path.name}
    callbacks = sorted(checkpoint["callbacks"])
    state = {**checkpoint["state_dict"], **flat(checkpoint["optimizer_states"])}
    return state, {"rows": timeless, "schedule": schedule, "files": files, "callbacks": callbacks}


def flat(tree, path="optimizer"):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if items is None:
        return {path: torch.as_tensor(tree if tree is not None else math.nan)} if not isinstance(tree, str) else {}
    return {key: value for name, part in items for key, value in flat(part, f"{path}.{name}").items()}


def assert_alike(one, other):
    (state, rest), (other_state, other_rest) = content(one), content(other)
    assert rest == other_rest
    assert state.keys() == other_state.keys()
    for key, value in state.items():
        assert torch.equal(value, other_state[key]) or value.isnan().all(), key


@pytest.fixture
def few_steps(monkeypatch):
    """Twelve steps a phase instead of a hundred."""
    from tlab.finetuning import LearningRateFinder

    monkeypatch.setattr(LearningRateFinder.__init__, "__defaults__", (None, 12))


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_with_the_finder_is_the_run_without(compose_run, tmp_path, workers, caplog):
    for name, found in {"plain": "false", "found": "true"}.items():
        overrides = (*MIXED, f"find_lr={found}", f"data.num_workers={workers}", "logger=tensorboard")
        with caplog.at_level(logging.INFO, logger="tlab"):
            train(compose_run(*overrides, run_dir=tmp_path / name))
    assert_alike(tmp_path / "plain", tmp_path / "found")
    said = [message for message in caplog.messages if "optimizer.lr" in message]
    assert [message.split(":")[0] for message in said] == ["phase head", "phase all"]
    assert all("the run uses 0.03" in message for message in said)


@pytest.mark.usefixtures("few_steps")
def test_a_run_that_goes_on_with_the_finder_is_the_run_without(compose_run, tmp_path, monkeypatch, caplog):
    """It fails once in the last epoch, and looks again where it goes on, inside the second phase."""
    train(compose_run(*MIXED, run_dir=tmp_path / "plain"))
    start = RunRecorder.on_train_epoch_start

    def fail(self, trainer, pl_module):
        start(self, trainer, pl_module)
        if trainer.current_epoch == 2:
            raise RuntimeError("power cut")

    cfg = compose_run(*MIXED, "find_lr=true", run_dir=tmp_path / "found")
    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "on_train_epoch_start", fail)
        patch.setattr("tlab.runs.checkpoints.EVERY_SECONDS", 0.0)  # else it goes on from the end of the first phase
        with pytest.raises(RuntimeError, match="power cut"):
            train(cfg)
    with caplog.at_level(logging.INFO, logger="tlab"):
        train(cfg)
    assert_alike(tmp_path / "plain", tmp_path / "found")
    assert len([message for message in caplog.messages if message.startswith("phase all")]) == 1


@pytest.mark.usefixtures("few_steps")
def test_the_finder_may_be_asked_for_when_a_run_goes_on(compose_run):
    metrics = train(compose_run())
    assert train(compose_run("find_lr=true")) == metrics


def test_a_batch_too_small_is_said_in_one_sentence(compose_run):
    with pytest.raises(UserError, match=r"data\.batch_size=1 is too small to train here"):
        train(compose_run("data.batch_size=1", "finetune=full", "find_lr=true", "backbone.upto=null"))
