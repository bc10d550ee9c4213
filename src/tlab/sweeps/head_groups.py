"""Runs of a sweep whose heads may train in one pass: by their overrides, they differ in nothing but the head."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from tlab.config.overrides import key_and_value
from tlab.core.eviction import open_locked
from tlab.runs.directory import RunDirectory
from tlab.sweeps.jobs import Job

GROUPS_OF_HEADS = ("optimizer", "scheduler", "loss", "head")
KEYS_OF_HEADS = ("seed", "data.balanced", "data.class_weights")


@dataclass(frozen=True)
class HeadGroup:
    """The runs with which a run may share the training of its head, as seen from it.

    The first run of a group that comes to train its head trains those of all others too that suit it and have not
    begun, and leaves a record of each in a folder, where they find it. A run that finds none does the same.

    Attributes:
        own: The run.
        jobs: All runs of the group, this one included.
        folder: Folder of the records.
        compose: Function that returns a run's configuration.
    """

    own: Job
    jobs: tuple[Job, ...]
    folder: Path
    compose: Callable[[Job], DictConfig]

    def alone(self) -> AbstractContextManager[bool]:
        """Return a lock that one process of the sweep holds at a time; others wait."""
        return open_locked(self.folder / "records")

    def record(self, job: Job) -> Path:
        """Return the file of a run's record."""
        return self.folder / f"{self.jobs.index(job)}.pt"

    def others(self) -> list[Job]:
        """Return the other runs that have neither begun nor a record."""
        return [job for job in self.jobs if job != self.own and not self.record(job).exists() and _is_new(job.run)]


def _is_new(run: RunDirectory) -> bool:
    return run.status in (None, "failed") and not run.has_begun


def head_groups(jobs: Sequence[Job], folder: Path, compose: Callable[[Job], DictConfig]) -> dict[Job, HeadGroup]:
    """Return the group of each run that has one.

    Args:
        jobs: Runs of a sweep that are left to do.
        folder: Folder for the records of all groups.
        compose: As for `HeadGroup`.
    """
    alike: dict[tuple[str, ...], list[Job]] = defaultdict(list)
    for job in jobs:
        alike[tuple(override for override in job.overrides if not _is_of_head(override))].append(job)
    return {
        job: HeadGroup(job, tuple(group), folder / str(number), compose)
        for number, group in enumerate(alike.values())
        for job in group
        if len(group) > 1
    }


def _is_of_head(override: str) -> bool:
    key, _ = key_and_value(override)
    return key.partition(".")[0] in GROUPS_OF_HEADS or key in KEYS_OF_HEADS
