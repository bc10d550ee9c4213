"""Commands that sweep over tiny runs, and what they leave."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch


class Sweep:
    """A command with `-m`, on the drawn photos, that can be given with different launchers.

    Args:
        photos: The images.
        directory: Of the sweep.
    """

    def __init__(self, photos: Path, directory: Path) -> None:
        self.photos, self.directory = photos, directory
        self.run = directory / "default" / "seed=0"

    def command(self, *arguments: str) -> list[str]:
        quick = (
            *("backbone.upto=layer1", "backbone.weights=null", "data.image_size=32", "data.batch_size=12"),
            *("data.num_workers=0", "trainer=cpu", "trainer.precision=32-true", "finetune.head_epochs=1"),
            "head.solver=sgd",
            *("logger=none", "dashboards.preview_images=0", "dashboards.top_losses=0"),
        )
        place = f"hydra.sweep.dir={self.directory}"
        return [sys.executable, "-m", "tlab.train", "-m", *quick, f"data.root={self.photos}", place, *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
        )

    def give(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, env=environment(), check=False
        )

    def give_here(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run on one core, as the jobs do: the last digits depend on the number of threads."""
        one = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, env=one, check=False)

    def await_epochs(self, process: subprocess.Popen[str], epochs: int, run: Path | None = None) -> None:
        """Wait until a run has so many rows in its history."""
        deadline = time.monotonic() + 300
        while len(history(run or self.run)) < epochs:
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            assert time.monotonic() < deadline
            time.sleep(0.05)


def environment() -> dict[str, str]:
    """As a user's: the tests' own limit on threads would hide that of the launcher."""
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


def record(run: Path) -> dict[str, object]:
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def history(run: Path) -> list[dict[str, str]]:
    if not (run / "history.csv").exists():
        return []
    with (run / "history.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def differing(one: Path, other: Path) -> list[str]:
    """Return the names of the weights in which two runs ended differently."""
    first, second = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (one, other)
    )
    return [name for name in first | second if not torch.equal(first[name], second[name])]
