"""The command line of each system, and how its figures are read back: one `Measurement` per command."""

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speed_scenarios import PEERS, Scenario
from tlab.config.overrides import as_override
from tlab.core.hardware import limit_spinning

HERE = Path(__file__).resolve().parent
FINETUNE = {  # last: the last stage
    "head": ("finetune=head", "head=probe", "head.solver=sgd", "finetune.batchnorm=pretrained"),  # as peers
    "layer4": ("finetune=last",),
    "full": ("finetune=full",),
}
RATES, DECAYS = (0.003, 0.01, 0.03, 0.1), (0.0, 1e-4, 1e-3)  # 4 x 3: the 12 runs of the sweep


@dataclass
class Measurement:
    """What one command gave.

    Attributes:
        scenario: Its name.
        system: tlab, a peer, limit or sweep.
        round: Systems are compared within a round; its number is the seed too.
        seconds: Wall clock of the whole process.
        fit_seconds: Training and validation, without start-up.
        images_per_second: Of the training part, median of the epochs after the first.
        accuracy: On the validation images after each epoch, in 0..1.
        limits: What `speed_limits.py` writes.
        error: Why there is nothing of all this.
        about: On what it ran: data, weights, processor, versions, commit, time.
    """

    scenario: str
    system: str
    round: int
    seconds: float = 0.0
    fit_seconds: float = 0.0
    images_per_second: float = 0.0
    accuracy: list[float] = field(default_factory=list)
    limits: dict[str, float] = field(default_factory=dict)
    error: str = ""
    about: dict[str, str] = field(default_factory=dict)


def tlab_command(scenario: Scenario, root: Path, weights: Path, seed: int, work: Path) -> list[str]:
    """Return tlab's command; of a GIF ImageFolder knows nothing, so tlab leaves it out too."""
    command = [
        *(sys.executable, "-m", "tlab.train", as_override("data.root", str(root)), "data.exclude=['*.gif']"),
        *(f"backbone={scenario.arch}", as_override("backbone.weights", str(weights))),
        *(*FINETUNE[scenario.plan], f"aug={scenario.aug}", f"trainer.max_epochs={scenario.epochs}"),
        *(f"data.image_size={scenario.image_size}", f"data.batch_size={scenario.batch_size}", f"seed={seed}"),
        as_override("hydra.run.dir", str(work / "run")),
    ]
    if scenario.views:
        command.append(f"features.views={scenario.views}")
    if scenario.precision == "bf16":
        command.append("trainer.precision=bf16-mixed")
    return command


def sweep_command(scenario: Scenario, root: Path, weights: Path, seed: int, work: Path) -> list[str]:
    """Return the command of 12 runs over learning rate and weight decay."""
    values = [f"optimizer.lr={','.join(map(str, RATES))}", f"optimizer.weight_decay={','.join(map(str, DECAYS))}"]
    return [
        *tlab_command(scenario, root, weights, seed, work),
        "-m",
        *values,
        f"hydra.sweep.dir='{work / 'sweep'}'",
    ]


def peer_command(
    system: str, scenario: Scenario, root: Path, weights: Path, seed: int, work: Path, fastai_python: str
) -> list[str]:
    """Return the command of a peer or of the limits."""
    python = fastai_python if system == "fastai" else sys.executable
    script = HERE / "speed_limits.py" if system == "limit" else HERE / "peers" / f"peer_{system}.py"
    command = [
        python,
        str(script),
        "--root",
        str(root),
        "--arch",
        scenario.arch,
        "--json",
        str(work / "figures.json"),
    ]
    command += ["--image-size", str(scenario.image_size), "--batch-size", str(scenario.batch_size)]
    if system == "limit":
        command += ["--budget", str(scenario.budget)]
    else:
        command += ["--weights", str(weights), "--epochs", str(scenario.epochs), "--plan", scenario.plan]
        command += ["--aug", scenario.aug, "--precision", scenario.precision, "--seed", str(seed)]
    return command


def run(command: list[str], work: Path, log: Path, timeout: float) -> tuple[float, str]:
    """Run a command with a cache of its own, empty before; all that it says goes to a file.

    Returns:
        Wall clock in seconds, and why it failed ("" where it did not).
    """
    limit_spinning()  # for all alike: tlab's own commands have it
    environment = {**os.environ, "TLAB_CACHE": str(work / "cache")}
    start = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
        try:
            code = process.wait(timeout)
        except BaseException as stopped:  # also at Ctrl-C nothing must go on
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(stopped, subprocess.TimeoutExpired):
                raise
            return timeout, f"stopped after {timeout:g} s"
    seconds = time.perf_counter() - start
    return seconds, "" if code == 0 else f"{last_line(log)[:200]} (exit code {code}, see {log.name})"


def last_line(log: Path) -> str:
    """Return the last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def speed(images_per_second: list[float]) -> float:
    """Return the median, without the first epoch: in it workers start and memory is found."""
    return statistics.median(images_per_second[1:] or images_per_second)


def read(measurement: Measurement, work: Path) -> None:
    """Fill in what the command wrote to `work`; of a sweep, that of all runs together."""
    figures: dict[str, Any] = {}
    if measurement.system == "limit":
        measurement.limits = json.loads((work / "figures.json").read_text())
    elif measurement.system in PEERS:
        figures = json.loads((work / "figures.json").read_text())
        rates = [n / s for n, s in zip(figures["train_images"], figures["train_seconds"], strict=True)]
        measurement.accuracy, measurement.fit_seconds = figures["accuracy"], figures["fit_seconds"]
        measurement.images_per_second = speed(rates)
    else:
        runs = sorted(path.parent for path in work.rglob("metrics.json"))
        measurement.fit_seconds = sum(json.loads((run / "metrics.json").read_text())["fit_seconds"] for run in runs)
        with (runs[0] / "history.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        if measurement.system == "tlab":  # accuracies of a sweep's runs say nothing beside each other
            measurement.accuracy = [float(row["val/acc"]) for row in rows]
        measurement.images_per_second = speed([float(row["images_per_second"]) for row in rows])
