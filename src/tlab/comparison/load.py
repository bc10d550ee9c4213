"""Reading run directories for a comparison."""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.errors import HydraException

from tlab.config.diff import AUTO, flat
from tlab.config.head_solver import with_solver_in_effect
from tlab.config.overrides import given_keys, key_and_value, shell_argument
from tlab.config.targets import renewed
from tlab.core.errors import UserError
from tlab.runs.directory import RunDirectory

FINISHED, UNFINISHED, FAILED, PRUNED = "finished", "unfinished", "failed", "pruned"
STATUSES = (FINISHED, FAILED, UNFINISHED, PRUNED)
REFERENCE = re.compile(r"\$\{([\w.]+)\}")

Replicate = (
    int | tuple[int, int]
)  # what runs of one setting differ in: the seed, or where there are folds (seed, fold)


@dataclass(frozen=True)
class Run:
    """One run, as read from its directory.

    Attributes:
        path: The run's directory.
        name: Its path relative to the directory compared; `.` for that directory itself.
        status: `finished`, also where only the refit is not; `failed`, `unfinished` (under way, or interrupted) or
            `pruned`.
        error: Reason of its failure; None unless it has failed.
        seed: Seed of everything random in it.
        choices: Configuration group -> choice; empty in the record of an old run.
        overrides: Key -> value, as on the command line; of `features={views: 8}` the key is `features.views`.
        config: The whole configuration, flat: `optimizer.lr` -> 0.1; empty if the run failed before it began. What
            it has decided where it says `auto` is `auto`, except the solver of the head, which makes another head.
        metrics: Contents of `metrics.json`; empty unless it is finished.
        history: Rows of `history.csv`, one per epoch; numeric cells are floats.
        record: The rest of `run.json`.
    """

    path: Path
    name: str
    status: str
    error: str | None
    seed: int
    choices: dict[str, str]
    overrides: dict[str, str]
    config: dict[str, Any]
    metrics: dict[str, float]
    history: list[dict[str, Any]]
    record: dict[str, Any] = field(repr=False)

    @property
    def phases(self) -> list[dict[str, Any]]:
        """The records of the phases, in order."""
        return list(self.record.get("phases") or [])

    @property
    def folds(self) -> int | None:
        """Number of folds into which its images are divided; None without folds."""
        return self.config.get("data.folds")

    @property
    def fold(self) -> int | None:
        """The fold on which it is validated; None without folds."""
        return self.config.get("data.fold") if self.folds else None

    @property
    def replicate(self) -> Replicate:
        """What it is paired by with runs of other settings."""
        return self.seed if self.fold is None else (self.seed, self.fold)

    @property
    def overlap(self) -> float:
        """Validation images as a multiple of the training images, where the latter are shared with other folds."""
        if not self.folds:
            return 0.0
        images = self.record.get("data", {}).get("images", {})
        return images["val"] / images["train"] if images.get("train") else 1 / (self.folds - 1)

    @property
    def is_refitted(self) -> bool:
        """Whether it was trained once more, on its validation images too; its metrics are those of before."""
        return bool(self.record.get("refit"))

    @property
    def lacks_refit(self) -> bool:
        """Whether its refit is still to do, since it was interrupted or has failed."""
        return self.status == FINISHED and bool(self.config.get("refit")) and not self.is_refitted

    @property
    def advice(self) -> dict[str, Any]:
        """The advice that it was given, once it is judged (`runs.advice.judged`); empty without any."""
        advice = self.record.get("advice") or {}
        return advice if "kept" in advice else {}

    @property
    def is_kept(self) -> bool | None:
        """Whether its advice is kept; None where it has none, or departs from it."""
        return self.advice.get("kept")

    @property
    def seconds(self) -> float | None:
        """Wall-clock seconds of all epochs."""
        return self.metrics.get("fit_seconds")

    @property
    def ece(self) -> float | None:
        """Expected calibration error in validation; None for a run of an earlier version."""
        return self.metrics.get("val/ece")

    @property
    def images_per_second(self) -> float | None:
        """Training speed in the last phase, in which the most trains; earlier ones may train on cached features."""
        return self.phases[-1].get("images_per_second") if self.phases else None

    @property
    def parameters(self) -> int | None:
        """Number of parameters of the network; None in the record of an old run."""
        counts = self.record.get("parameters")
        return sum(counts.values()) if counts else None

    @property
    def trained_parameters(self) -> int | None:
        """Number of parameters that some phase trained."""
        counts = self.record.get("parameters")
        trained = {group for phase in self.phases for group in phase.get("trained", ())}
        return sum(counts.get(group, 0) for group in trained) if counts else None

    def setting(self, key: str) -> Any:
        """Return the value of a key; of one that only refers to another (`${backbone.input_size}`) that one's.

        References to what varies within a setting, the seed and the fold, stay as they are.
        """
        value, seen = self.config.get(key), {key}
        while isinstance(value, str) and (other := REFERENCE.fullmatch(value)):
            if other[1] in {*seen, "seed", "data.fold"} or other[1] not in self.config:
                break
            seen.add(other[1])
            value = self.config[other[1]]
        return value

    def epochs_to(self, monitor: str, target: float, mode: str) -> int | None:
        """Return after how many epochs `monitor` first was as good as `target`; None if never."""
        for number, row in enumerate(self.history, start=1):
            value = row.get(monitor)
            if isinstance(value, float) and (value >= target if mode == "max" else value <= target):
                return number
        return None


def differ_in(runs: Sequence[Run]) -> str:
    """Return what the runs of a setting are called: `seed`, `fold`, or `run` where they differ in both."""
    if not any(run.folds for run in runs):
        return "seed"
    return "fold" if len({run.seed for run in runs if run.folds}) == 1 else "run"


def read_runs(directory: Path) -> tuple[list[Run], list[str]]:
    """Return the runs in and below `directory`, in the order of their names, and a sentence for each damaged one.

    Raises:
        UserError: There is no such directory, or no run in it.
    """
    if not directory.is_dir():
        raise UserError(f"sweep={directory} is no directory; give one that holds runs, {_there_are()}")
    runs, damaged = [], []
    for path in sorted(_run_directories(directory)):
        try:
            runs.append(_read(RunDirectory(path), directory))
        except (UserError, OSError, ValueError, csv.Error) as error:
            damaged.append(str(error))
    if not runs:
        none = f"sweep={directory} holds no run (no run.json in it or below); give one that does, {_there_are()}"
        raise UserError(damaged[0] if damaged else none)
    return runs, [f"left out: {reason}" for reason in damaged]


def _there_are() -> str:
    """Return an example of a directory with runs, if possible the latest sweep or run here with a finished one."""
    here = [folder for group in ("multirun", "runs") for folder in Path("outputs", group).glob("*/")]
    here.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    finished = (folder for folder in here if any(folder.rglob("metrics.json")))
    return f"such as {shell_argument('sweep', next(finished, Path('outputs/multirun/NAME')))}"


def _run_directories(directory: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(directory):
        subfolders[:] = [name for name in subfolders if name != "checkpoints" and not name.startswith(".")]
        if "run.json" in files:
            yield Path(folder)


def _read(run: RunDirectory, directory: Path) -> Run:
    record = dict(run.record)
    config = with_solver_in_effect(flat(renewed(record.pop("config", {}))))
    config |= {key: AUTO for key in record.get("decided", ()) if key != "head.solver"}
    choices, overrides = _chosen(run)
    status = record.get("status") or UNFINISHED
    if run.is_trained:
        status = FINISHED
    elif status == FINISHED:
        raise UserError(f"{run.path} is finished, but its metrics.json is gone; its command makes it again")
    elif status == "running" or record.get("error") == "interrupted":
        status = UNFINISHED
    return Run(
        path=run.path,
        name=run.path.relative_to(directory).as_posix(),
        status=status,
        error=record.get("error") if status == FAILED else None,
        seed=int(record.get("seed", config.get("seed", _seed_of(run.path)))),
        choices=choices,
        overrides=overrides,
        config=config,
        metrics=run.metrics() if status == FINISHED else {},
        history=[{key: number(value) for key, value in row.items()} for row in run.history()],
        record=record,
    )


def _seed_of(path: Path) -> int:
    """Return the seed that a run of a sweep has in its name, which is all that is known before it has begun."""
    seed = path.name.removeprefix("seed=")
    return int(seed) if seed.isdigit() else 0


def _chosen(run: RunDirectory) -> tuple[dict[str, str], dict[str, str]]:
    """Return choices and overrides; a baseline has those of the run that it belongs to, and its own on top."""
    parent = RunDirectory(run.path.parents[1]) if run.path.parent.name == "baselines" else None
    if parent is not None and (record := parent.record):
        choices, overrides = _chosen(parent)
        own = dict(map(key_and_value, record.get("config", {}).get("baseline", {}).get(run.path.name, [])))
        return choices | {group: own[group] for group in choices if group in own}, overrides | own
    choices = {group: str(choice) for group, choice in (run.record.get("choices") or {}).items()}
    return choices, {key: value for override in run.overrides() for key, value in _keys_set(override).items()}


def _keys_set(override: str) -> dict[str, str]:
    """Return the keys that an override sets, with what is typed for them; those in a mapping have the mapping."""
    key, value = key_and_value(override)
    try:
        below = [each for each in given_keys([override]) if each.startswith(f"{key}.")]
    except HydraException:  # it was written by hand
        below = []
    return dict.fromkeys(below or [key], value)


def number(text: str | None) -> Any:
    """Return a text as a float where it is one."""
    try:
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return text
