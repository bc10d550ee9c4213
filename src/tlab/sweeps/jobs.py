"""The runs that a command asks for, each with its directory, whose name says what distinguishes it."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tlab.config.diff import without_effect
from tlab.config.overrides import NEVER_IN_NAMES, as_override, key_and_value, run_name
from tlab.config.schema import REMOVED_KEYS
from tlab.core.errors import UserError
from tlab.core.text import shell_word
from tlab.runs.directory import TIME, RunDirectory
from tlab.runs.manifest import SweepManifest


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        overrides: Overrides of the command line, with one value each.
        name: Name of its group: all that distinguishes it but the seed.
        seed: Its seed, as text.
        run: Its run directory.
    """

    overrides: tuple[str, ...]
    name: str
    seed: str
    run: RunDirectory

    def __str__(self) -> str:
        return f"{self.name} seed={self.seed}"

    @property
    def place(self) -> list[str]:
        """The overrides that put the run into its directory."""
        directory = self.run.path
        sweep, below = directory.parents[1], f"{directory.parent.name}/{directory.name}"
        return [as_override("hydra.sweep.dir", sweep), as_override("hydra.sweep.subdir", below)]

    def seconds(self) -> float | None:
        """Return how long the finished run took, by its record; None where that is not known."""
        record = self.run.record
        if record.get("status") != "finished" or not record.get("ended"):
            return None
        start, end = (datetime.strptime(record[key], TIME) for key in ("started", "ended"))
        return max((end - start).total_seconds(), self.run.metrics().get("fit_seconds", 0.0))


def constants(runs: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return the overrides that all runs of a command share: key -> value, without those that change no result.

    Args:
        runs: The overrides of each run.
    """
    first, *others = (dict(map(key_and_value, overrides)) for overrides in runs or [()])
    return {
        key: value
        for key, value in first.items()
        if key not in NEVER_IN_NAMES
        and not without_effect(key)
        and all(other.get(key) == value for other in others)
    }


def check_constants(runs: Sequence[Sequence[str]], directory: Path, manifest: SweepManifest, another: str) -> None:
    """Refuse runs that lack an override which all runs of the sweep have had.

    Args:
        runs: The overrides of each run.
        directory: Directory of the sweep.
        manifest: Manifest that the first command of the sweep left.
        another: How to give another directory, in words.

    Raises:
        UserError: They lack one; names it.
    """
    given = {key for overrides in runs for key, _ in map(key_and_value, overrides)}
    for key, value in manifest.constants.items():
        # earlier versions recorded keys that change no result, and had keys that are gone
        if key not in given and not without_effect(key) and key not in REMOVED_KEYS:
            raise UserError(
                f"{directory} was begun with {shell_word(f'{key}={value}')}, which this command does not give; "
                f"give it too, or {another}"
            )


def make_jobs(runs: Sequence[Sequence[str]], seed: str, directory: Path, manifest: SweepManifest) -> list[Job]:
    """Return a job for each distinct run.

    Args:
        runs: The overrides of each run.
        seed: Seed of runs that have none among their overrides.
        directory: Directory of the sweep.
        manifest: Manifest that the first command of the sweep left.

    Raises:
        UserError: An override that all runs of the sweep have had is missing, or two runs would share a directory.
    """
    check_constants(runs, directory, manifest, "another name: sweep=NAME")
    jobs: dict[Path, Job] = {}
    for overrides, told in zip(runs, _distinguishing(runs, manifest.constants), strict=True):
        own_seed = dict(map(key_and_value, overrides)).get("seed", seed)
        name = run_name(told)
        path = directory / name / f"seed={own_seed}"
        job = Job(tuple(overrides), name, own_seed, RunDirectory(path))
        if path in jobs and jobs[path].overrides != job.overrides:
            raise UserError(
                f"two runs of this sweep would share the directory {path}: "
                f"{' '.join(jobs[path].overrides)} and {' '.join(overrides)}; give them to two sweeps"
            )
        jobs[path] = job
    return list(jobs.values())


def _distinguishing(runs: Sequence[Sequence[str]], noted: Mapping[str, str]) -> list[list[str]]:
    """Return for each run the overrides that its name is made of.

    Left out is what equals the constants of the command that began the sweep: so an override that gets a second
    value later (`aug=none`, then `aug=none,strong`) leaves finished runs where they are.
    """
    values = Counter(key for key, _ in set(map(key_and_value, itertools.chain.from_iterable(runs))))

    def told(override: str) -> bool:
        key, value = key_and_value(override)
        return noted.get(key) != value and (values[key] > 1 or not without_effect(key))

    return [[override for override in overrides if told(override)] for overrides in runs]


def override_cover(jobs: Sequence[Job]) -> list[Job]:
    """Return a few of the jobs that together have every override of any of them."""
    missing = set(itertools.chain.from_iterable(job.overrides for job in jobs))
    found = []
    for job in jobs:
        if not missing.isdisjoint(job.overrides):
            missing.difference_update(job.overrides)
            found.append(job)
    return found
