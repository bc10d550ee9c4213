"""SIGKILL at random moments: the same command again, until it is done, ends as if nothing had happened."""

import csv
import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

pytestmark = pytest.mark.slow

# Three steps an epoch: one of the head, then four phases of one epoch, each with more stages than the one before.
RUN = (
    "backbone=mobilenet_v3_small",
    "head.dropout=0.5",
    "aug.mix.mixup_alpha=0.2",
    "finetune=gradual",
    "finetune.head_epochs=1",
    "head.solver=sgd",
    "trainer.max_epochs=5",
    "checkpoint.every_n_steps=1",
)
EPOCHS, KILLS = 5, ("write", "unfreeze", "inside")
WHOLE = {"best.ckpt", "last.ckpt", "previous.ckpt"}

forks = multiprocessing.get_context("forkserver")  # a clean process that has torch already: a start costs nothing
forks.set_forkserver_preload(
    [
        *("tlab.train", "tlab.models.module", "tlab.finetuning", "tlab.runs.history", "tlab.dashboards.hparams"),
        *("lightning.pytorch", "torchvision", "torch.utils.tensorboard"),
    ]
)


def run_in_child(config: str) -> None:
    from tlab.train import train

    multiprocessing.set_start_method("fork", force=True)  # the loader's workers, as in a command
    torch.set_num_threads(1)
    train(OmegaConf.load(config))


def start(config: Path) -> BaseProcess:
    process = forks.Process(target=run_in_child, args=(str(config),))
    process.start()
    return process


def wait(process: BaseProcess, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.is_alive(), "the run ended before the moment of the kill"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def rows(run: Path) -> list[dict[str, str]]:
    if not (run / "history.csv").exists():
        return []
    with (run / "history.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def timeless(run: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows(run)]


def weights(run: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def await_moment(process: BaseProcess, run: Path, aim: str, rng: random.Random) -> None:
    """Return at a moment to kill at, one to three checkpoints after the start or a little later."""
    last, seen = run / "checkpoints" / "last.ckpt", set()

    def saved() -> int:
        if last.exists():
            seen.add(last.stat().st_mtime_ns)
        return len(seen)

    saves = saved() + rng.randint(1, 3)
    wait(process, lambda: saved() >= saves)
    if aim == "write":  # while a checkpoint is written beside its place
        wait(process, lambda: {path.name for path in last.parent.iterdir()} - WHOLE != set())
    elif aim == "unfreeze":  # an epoch, and with it a phase, ends: before, at or after the next one begins
        epochs = len(rows(run))
        wait(process, lambda: len(rows(run)) > epochs)
        time.sleep(rng.uniform(0, 0.2))
    else:
        time.sleep(rng.uniform(0, 0.2))


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories of uninterrupted runs by scheduler."""
    return {}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("scheduler", ["none", "cosine", "onecycle", "step", "plateau"])
def test_a_run_killed_three_times_ends_alike(
    compose_run, tmp_path_factory, tmp_path, whole_runs, scheduler, workers
):
    """Ten runs, thirty kills; the runs that they are compared with have no workers."""

    def config(run: Path, workers: int) -> Path:
        cfg = compose_run(*RUN, f"scheduler={scheduler}", f"data.num_workers={workers}", run_dir=run)
        OmegaConf.save(cfg, run.with_suffix(".yaml"), resolve=True)
        return run.with_suffix(".yaml")

    if scheduler not in whole_runs:
        whole = tmp_path_factory.mktemp("whole") / "run"
        process = start(config(whole, 0))
        process.join(120)
        assert process.exitcode == 0
        whole_runs[scheduler] = whole
    whole, killed = whole_runs[scheduler], tmp_path / "run"
    again = config(killed, workers)
    rng = random.Random(f"{scheduler} {workers}")
    for aim in rng.sample(KILLS, len(KILLS)):
        process = start(again)
        await_moment(process, killed, aim, rng)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    process = start(again)
    process.join(120)
    assert process.exitcode == 0
    assert [row["epoch"] for row in rows(killed)] == [str(epoch) for epoch in range(EPOCHS)]
    assert timeless(killed) == timeless(whole)
    for name in ("last", "best"):
        one, other = weights(killed, name), weights(whole, name)
        assert [key for key in one if not torch.equal(one[key], other[key])] == []
    left = {path.name for path in (killed / "checkpoints").iterdir()}
    assert left == {"best.ckpt", "last.ckpt"}  # nothing half-written, nothing that is of no more use
