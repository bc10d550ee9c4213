"""A sweep of twelve runs that is killed three times, one of its runs failing once, ends as one left in peace."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from test_sweeps import JOBLIB, result, statuses

pytestmark = pytest.mark.slow

GRID = ("aug=none,light", "seed=0,1,2")
DRAWN = ("backbone=resnet18,mobilenet_v3_small", "backbone.weights=null", "data.batch_size=12")
RUNS, KILLS = 12, ("checkpoint", "checkpoint", "anywhere")
SMALL = [
    *("data.image_size=32", "data.num_workers=0", "trainer=cpu", "trainer.precision=32-true", "logger=none"),
    *("trainer.max_epochs=3", "finetune.head_epochs=1", "head.solver=sgd"),
]
SHARED = Path(__file__).parents[2] / "shared"
CIFAR, WEIGHTS = SHARED / "data" / "cifar10_kaggle", SHARED / "weights"


@pytest.fixture
def cifar(tmp_path: Path) -> list[str]:
    """Overrides for three hundred of the competition's images, and two backbones with weights of their own."""
    if not CIFAR.exists():
        pytest.skip("the images of the competition are not here")
    root, conf = tmp_path / "cifar", tmp_path / "conf/backbone"
    root.mkdir()
    (root / "train").symlink_to(CIFAR / "train")
    lines = (CIFAR / "trainLabels.csv").read_text().splitlines()
    (root / "trainLabels.csv").write_text("\n".join(lines[:301]) + "\n")
    conf.mkdir(parents=True)
    for name in ("resnet18", "mobilenet_v3_small"):
        weights = f"weights: {WEIGHTS}/{name}_tinyimagenet64.pth\n"
        weights += f"weights_classes: {WEIGHTS}/tinyimagenet200_classes.json\n"
        (conf / f"tiny_{name}.yaml").write_text(f"defaults: [{name}, _self_]\n{weights}")
    options = [
        f"hydra.searchpath=[file://{conf.parent}]",
        "backbone=tiny_resnet18,tiny_mobilenet_v3_small",
        "data=csv",
    ]
    return [*options, f"data.root={root}", "data.labels=trainLabels.csv", "data.images=train"]


def command(directory: Path, options: list[str]) -> list[str]:
    return [sys.executable, "-m", "tlab.train", "-m", f"hydra.sweep.dir={directory}", *GRID, *SMALL, *options]


def untouched(directory: Path) -> dict[str, dict[str, int]]:
    """When each file of each finished run was written, but for what it printed.

    A worker may outlive the killed command by a moment, and says its last line after its run is finished.
    """
    return {
        name: {
            file.name: file.stat().st_mtime_ns
            for file in (directory / name).rglob("*")
            if file.is_file() and file.name != "output.txt"
        }
        for name, status in statuses(directory).items()
        if status == "finished"
    }


def begun(directory: Path) -> bool:
    """Tell whether a run that is not finished has a checkpoint."""
    running = [name for name, status in statuses(directory).items() if status == "running"]
    return any((directory / name / "checkpoints/last.ckpt").exists() for name in running)


def kill_at_random(arguments: list[str], directory: Path, after: int, aim: str, rng: random.Random) -> None:
    """Start the sweep and kill it a moment after so many more of its runs are finished, or another has begun."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = len(untouched(directory))
    while len(untouched(directory)) < before + after or (aim == "checkpoint" and not begun(directory)):
        assert process.poll() is None, "the sweep ended before the moment of the kill"
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.5 if aim == "checkpoint" else 3))
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL


def test_a_sweep_killed_three_times_ends_alike(photos, tmp_path):
    killed_sweep_ends_alike([f"data.root={photos}", *DRAWN], [], tmp_path)


def test_a_sweep_killed_three_times_ends_alike_in_other_processes(photos, tmp_path):
    killed_sweep_ends_alike([f"data.root={photos}", *DRAWN], JOBLIB, tmp_path)


def test_a_sweep_on_the_competition_killed_three_times_ends_alike(cifar, tmp_path):
    killed_sweep_ends_alike(cifar, [], tmp_path)


def killed_sweep_ends_alike(options: list[str], launcher: list[str], tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    peace = subprocess.run(command(whole, options), check=False, capture_output=True, text=True)
    assert peace.returncode == 0, peace.stderr
    assert len(untouched(whole)) == RUNS

    rng = random.Random(0)
    again = command(killed, [*options, *launcher])
    failing = killed / sorted(statuses(whole))[rng.randrange(RUNS)]
    failing.mkdir(parents=True)
    (failing / "checkpoints").touch()  # a file where a folder should be
    finished: dict[str, dict[str, int]] = {}
    for after, aim in zip([1, 2, 3], rng.sample(KILLS, len(KILLS)), strict=True):
        kill_at_random(again, killed, after, aim, rng)
        finished |= {name: files for name, files in untouched(killed).items() if name not in finished}
    disturbed = subprocess.run(again, check=False, capture_output=True, text=True)
    assert disturbed.returncode == 1, disturbed.stderr
    assert "11 of 12 runs are finished" in disturbed.stdout
    finished |= {name: files for name, files in untouched(killed).items() if name not in finished}
    (failing / "checkpoints").unlink()
    last = subprocess.run(again, check=False, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert f"11 of {RUNS} runs are finished and stay as they are" in last.stdout

    assert len(finished) == RUNS - 1
    final = untouched(killed)
    assert {name: final[name] for name in finished} == finished  # none was trained twice
    assert sorted(final) == sorted(statuses(whole))
    for name in final:
        assert result(killed / name) == result(whole / name)
    assert (killed / "comparison.csv").read_bytes() == (whole / "comparison.csv").read_bytes()
