"""Many heads in one pass: each run is the one that it is alone, and the pass takes the steps of one."""

import csv
import functools
import math
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from omegaconf import DictConfig
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tlab.assembly.build import make_plan
from tlab.assembly.many_heads import trains_a_head_alone
from tlab.finetuning import RunState
from tlab.runs.directory import RunDirectory
from tlab.runs.graceful_stop import GracefulStop
from tlab.sweeps.head_groups import head_groups
from tlab.sweeps.jobs import Job
from tlab.train import train

HEAD = ("backbone.upto=layer1", "finetune=head", "finetune.head_epochs=null", "aug=none", "trainer.max_epochs=3")
CLOCK = ("seconds", "images_per_second", "fit_seconds")


class Sweep:
    """Runs with these overrides, without Hydra's launcher around them."""

    def __init__(self, compose: Callable[..., DictConfig], folder: Path, *overrides: tuple[str, ...]) -> None:
        self.jobs = [
            Job(each, str(number), "0", RunDirectory(folder / str(number))) for number, each in enumerate(overrides)
        ]
        self.compose_run = compose
        self.groups = head_groups(self.jobs, folder / "records", self.compose)

    def compose(self, job: Job) -> DictConfig:
        return self.compose_run(*HEAD, *job.overrides, run_dir=job.run.path)

    def train(self, job: Job, alone: bool = False) -> dict[str, float]:
        return train(self.compose(job), [*job.overrides], group=None if alone else self.groups.get(job))


def state(run: RunDirectory, name: str) -> dict:
    return torch.load(run.path / "checkpoints" / name, weights_only=True)


def leaves(value: object, path: str = "") -> dict[str, object]:
    """A checkpoint's values by where they stand, without those of the clock."""
    pairs = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    )
    if pairs is None:
        return {path: value}
    found: dict[str, object] = {}
    for key, each in pairs:
        if key not in (*CLOCK, "before", "train_seconds", "run_dir", "sweep"):
            found |= leaves(each, f"{path}/{key}")
    return found


def assert_same(one: RunDirectory, other: RunDirectory) -> None:
    files = [{file.relative_to(run.path) for file in run.path.rglob("*") if file.is_file()} for run in (one, other)]
    assert files[0] == files[1]
    with one.history_file.open() as first, other.history_file.open() as second:
        for a, b in zip(csv.DictReader(first), csv.DictReader(second), strict=True):
            assert a.keys() == b.keys()
            told = [{k: v for k, v in row.items() if k not in CLOCK and v} for row in (a, b)]
            for key in ("phase", "solver"):
                assert told[0].pop(key, "") == told[1].pop(key, "")
            assert {k: float(v) for k, v in told[0].items()} == pytest.approx(
                {k: float(v) for k, v in told[1].items()}, abs=1e-5
            )
    for name in ("best.ckpt", "last.ckpt"):
        a, b = leaves(state(one, name)), leaves(state(other, name))
        assert a.keys() == b.keys()
        for key, value in a.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(
                    b[key], value, atol=1e-6, rtol=1e-5, msg=lambda m, key=key: f"{key}: {m}"
                )
            elif isinstance(value, float):
                assert b[key] == pytest.approx(value, abs=1e-5), key
            else:
                assert b[key] == value, key


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The override that gives all seeds the same backbone."""
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=5).state_dict(), file)
    return f"backbone.weights={file}"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Number of optimizer steps that train something, and of matrix products of heads in the forward pass."""
    counted = {"optimizer": 0, "products": 0}

    def counting(name: str, function: Callable, holds: Callable[..., bool]) -> Callable:
        @functools.wraps(function)  # with torch's mark, or the hooks of steps would be called twice
        def call(*arguments: Any, **options: Any) -> Any:
            counted[name] += holds(*arguments, **options)
            return function(*arguments, **options)

        return call

    def step(optimizer: torch.optim.Optimizer, arguments: tuple, options: dict) -> None:
        has_closure = len(arguments) > 1 or bool(options)
        has_gradient = any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
        if not isinstance(optimizer, torch.optim.LBFGS):  # which measures the backbone's BatchNorm statistics
            counted["optimizer"] += has_closure or has_gradient

    # by torch's own hook: whether AdamW has Adam's step or one of its own depends on which was made first
    handle = register_optimizer_step_pre_hook(step)
    for owner, name in ((torch, "baddbmm"), (torch.nn.functional, "linear")):
        monkeypatch.setattr(
            owner, name, counting("products", getattr(owner, name), lambda *_: torch.is_grad_enabled())
        )
    yield counted
    handle.remove()


ALIKE = [("optimizer.lr=0.1",), ("optimizer.lr=0.01", "optimizer.weight_decay=0.1"), ("seed=1",)]
MIXED = [
    ("optimizer.lr=0.1", "head.dropout=0.2", "loss.label_smoothing=0.1"),
    ("optimizer=adamw", "optimizer.lr=0.01", "scheduler=onecycle"),
    ("seed=1", "data.balanced=true", "scheduler=step", "scheduler.step_size=1", "loss=focal"),
    ("optimizer=adamw", "data.class_weights=true", "scheduler=none", "optimizer.betas=[0.8, 0.9]"),
    ("scheduler=plateau",),  # which has to wait for each validation
]


@pytest.mark.parametrize(
    ("runs", "common", "steps_taken", "products"),
    [
        pytest.param(ALIKE, ["trainer.early_stopping=1"], 9, 9, id="rate, decay and seed"),
        pytest.param(MIXED, ["trainer.precision=bf16-mixed", "head=probe"], 27, 27, id="optimizer, loss, dropout"),
        pytest.param(
            ALIKE[:2],
            ["head=mlp", "head.hidden=[8]", "aug=light", "aug.mix.mixup_alpha=0.3"],
            9,
            18,
            marks=pytest.mark.slow,
            id="mixed",
        ),
    ],
)
def test_each_run_is_the_one_it_is_alone(
    compose_run, tmp_path, steps, weights, runs, common, steps_taken, products
):
    together, alone = (
        Sweep(compose_run, tmp_path / name, *[(weights, *common, *each) for each in runs])
        for name in ("together", "alone")
    )
    for job in together.jobs:
        together.train(job)
    assert steps == {"optimizer": steps_taken, "products": products}
    for job in alone.jobs:
        alone.train(job, alone=True)
    for one, other in zip(together.jobs, alone.jobs, strict=True):
        assert_same(one.run, other.run)


@pytest.mark.parametrize(
    ("runs", "quick", "solvers"),
    [
        pytest.param(
            [(), ("optimizer.lr=0.1",), ("head.dropout=0.1",), ("data.balanced=true",), ("head.solver=lbfgs",)],
            *(math.inf, ["lbfgs", "sgd", "sgd", "lbfgs", "lbfgs"]),
            id="overrides",
        ),
        pytest.param(
            *([(), ("data.balanced=true",), ("optimizer.lr=0.1",)], 0, ["sgd"] * 3),
            marks=pytest.mark.slow,
            id="data",
        ),
        pytest.param(
            *([("seed=0",), ("seed=1",), ("head=mlp",)], math.inf, ["lbfgs", "lbfgs", "sgd"]),
            marks=pytest.mark.slow,
            id="mlp",
        ),
    ],
)
def test_heads_that_are_solved_train_in_no_pass(
    compose_run, tmp_path, steps, weights, monkeypatch, runs, quick, solvers
):
    monkeypatch.setattr("tlab.finetuning.features.cache.QUICK_UP_TO", quick)
    together, alone = (
        Sweep(compose_run, tmp_path / name, *[(weights, "head.solver=auto", *each) for each in runs])
        for name in ("together", "alone")
    )
    for job in together.jobs:
        together.train(job)
    # each epoch has three, in which a solved head is as it is; those of the others are the same
    assert steps["optimizer"] == 3 * solvers.count("lbfgs") + 3 * 3
    assert [job.run.record["config"]["head"]["solver"] for job in together.jobs] == solvers
    assert not list((tmp_path / "together/records").rglob("*.pt"))
    for job in alone.jobs:
        alone.train(job, alone=True)
    for one, other in zip(together.jobs, alone.jobs, strict=True):
        assert_same(one.run, other.run)


def test_a_run_that_was_stopped_goes_on_and_the_others_train_without_it(compose_run, tmp_path, steps, monkeypatch):
    runs = [("optimizer.lr=0.1",), ("optimizer.lr=0.01",), ("optimizer.lr=0.02",)]
    together, alone = (Sweep(compose_run, tmp_path / name, *runs) for name in ("together", "alone"))
    with monkeypatch.context() as stopping:
        stopping.setattr(GracefulStop, "_asked", lambda _, trainer: trainer.current_epoch == 1)
        with pytest.raises(SystemExit):
            together.train(together.jobs[0])
    assert state(together.jobs[0].run, "last.ckpt")["epoch"] == 1
    again = Sweep(compose_run, tmp_path / "together", *runs)
    shutil.rmtree(tmp_path / "together/records")
    steps["optimizer"] = 0
    for job in again.jobs[::-1]:
        again.train(job)
    assert steps["optimizer"] == 9 + 3  # two in one pass, and the last epoch of the one that was stopped
    for job in alone.jobs:
        alone.train(job, alone=True)
    for one, other in zip(again.jobs, alone.jobs, strict=True):
        assert_same(one.run, other.run)


def test_a_pass_that_is_stopped_begins_no_run(compose_run, tmp_path, monkeypatch):
    sweep = Sweep(compose_run, tmp_path, ("optimizer.lr=0.1",), ("optimizer.lr=0.01",))

    def train_a_step(*_: Any, between_steps: Callable[[], None], **__: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        between_steps()

    monkeypatch.setattr("tlab.assembly.many_heads.train_jointly", train_a_step)
    with pytest.raises(SystemExit) as stop:
        sweep.train(sweep.jobs[0])
    assert stop.value.code == 128 + signal.SIGTERM
    assert [job.run.has_begun for job in sweep.jobs] == [False, False]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], True),
        (["head=mlp", "aug=strong", "scheduler=step"], True),
        (["finetune=lp_ft", "finetune.head_epochs=1"], False),
        (["finetune=last", "finetune.head_epochs=1"], False),
        (["head.solver=lbfgs"], False),
        (["trainer.gradient_clip_val=1.0"], False),
        (["trainer.accumulate_grad_batches=2"], False),
        (["checkpoint.every_n_steps=5"], False),
        (["finetune.ema=0.9"], False),
        (["callbacks=timer"], False),
        (["find_lr=true"], False),
    ],
)
def test_only_what_an_optimizer_alone_decides_trains_together(compose_run, overrides, expected):
    cfg = compose_run(*HEAD, *overrides)
    plan = make_plan(cfg, SimpleNamespace(stage_names=["stem", "layer1"]))
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")), precision="32-true")
    assert trains_a_head_alone(cfg, trainer, RunState(plan)) is expected


def test_runs_that_differ_in_more_than_the_head_are_in_several_groups(tmp_path):
    overrides = [
        *(("backbone=a", "optimizer.lr=1", "seed=0"), ("backbone=a", "+optimizer.eps=2", "seed=1")),
        *(("backbone=b", "loss=focal"), ("backbone=b", "head.dropout=0", "data.balanced=true")),
        ("backbone=c", "data.balanced=true"),
    ]
    jobs = [Job(each, str(n), "0", RunDirectory(tmp_path / str(n))) for n, each in enumerate(overrides)]
    groups = head_groups(jobs, tmp_path, lambda _: DictConfig({}))
    assert {job.name: [other.name for other in group.others()] for job, group in groups.items()} == {
        **{"0": ["1"], "1": ["0"]},
        **{"2": ["3"], "3": ["2"]},
    }
