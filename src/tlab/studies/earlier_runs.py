"""Runs that earlier commands of a study have left in its folder, and that belong into its figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tlab.config.diff import without_effect
from tlab.config.overrides import key_and_value
from tlab.core.text import counted, few
from tlab.runs.directory import RunDirectory
from tlab.studies.study_runs import StudyRun


def earlier_runs(
    x: str, results: Mapping[StudyRun, RunDirectory], directory: Path
) -> tuple[dict[StudyRun, RunDirectory], list[str]]:
    """Return the finished runs of other seeds and values of `x`, and remarks on these and on what is left out.

    Args:
        x: What lies along the figure.
        results: Directory of each run of this command.
        directory: The study's directory.
    """
    varied = {"seed", x}
    own = {result.path for result in results.values()}
    lines = {_settings(result.overrides(), varied): run for run, result in results.items()}
    others = [RunDirectory(file.parent) for file in sorted(directory.glob("*/seed=*/run.json"))]
    others = [other for other in others if other.path not in own]
    found, keys, unfinished = {}, dict[str, None](), 0
    for other in others:
        overrides = other.overrides()
        run = lines.get(_settings(overrides, varied))
        place = dict(map(key_and_value, overrides)).get(x, run.x if run else None)
        if run is None or (place is None) != (run.x is None):
            nearest = min((_differing(overrides, each, varied) for each in results.values()), key=len)
            keys |= dict.fromkeys(sorted(nearest))
        elif other.status != "finished":
            unfinished += 1
        else:
            found[StudyRun(run.line, place, tuple(overrides))] = other
    remarks = [f"With {counted(found, 'run')} of earlier commands."] if found else []
    if strange := len(others) - len(found) - unfinished:
        remarks.append(f"{counted(strange, 'run')} in the folder left out, with another {few(keys)}.")
    if unfinished:
        remarks.append(f"{counted(unfinished, 'run')} of earlier commands left out, not finished.")
    return found, remarks


def _settings(overrides: Sequence[str], varied: set[str]) -> frozenset[tuple[str, str]]:
    """Return the settings of a run that can change its result, but for those that vary within a line."""
    settings = map(key_and_value, overrides)
    return frozenset((key, value) for key, value in settings if key not in varied and not without_effect(key))


def _differing(overrides: Sequence[str], result: RunDirectory, varied: set[str]) -> set[str]:
    return {key for key, _ in _settings(overrides, varied) ^ _settings(result.overrides(), varied)} or varied
