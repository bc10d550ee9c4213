"""Runs that earlier commands of a study have left in its folder, and that belong into its figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tlab.config.diff import without_effect
from tlab.config.overrides import key_and_value
from tlab.core.text import counted, few
from tlab.runs.directory import RunDirectory
from tlab.studies.study_runs import LIMIT, StudyRun


def earlier_runs(
    x: str, results: Mapping[StudyRun, RunDirectory], directory: Path
) -> tuple[dict[StudyRun, RunDirectory], list[str]]:
    """Return the finished runs of other seeds and values of `x`, and remarks on these and on what is left out.

    Args:
        x: What lies along the figure.
        results: Directory of each run of this command.
        directory: The study's directory.
    """
    own = {result.path for result in results.values()}
    lines = {_settings(result.overrides(), x): run for run, result in results.items()}
    records = [result.record for result in results.values() if result.status == "finished"]
    found, keys, strange, of_others, unfinished = {}, dict[str, None](), 0, 0, 0
    for file in sorted(directory.glob("*/seed=*/run.json")):
        other = RunDirectory(file.parent)
        overrides = other.overrides()
        settings = _settings(overrides, x)
        if other.path in own:
            continue
        if settings not in lines:
            strange += 1
            keys |= dict.fromkeys(sorted(key for key, _ in min((settings ^ each for each in lines), key=len)))
        elif other.status != "finished":
            unfinished += 1
        elif _had_other_images(other.record, records, x):
            of_others += 1
        else:
            run = lines[settings]
            place = dict(map(key_and_value, overrides)).get(x, run.x)
            found[StudyRun(run.line, place, tuple(overrides))] = other
    remarks = [f"With {counted(found, 'run')} of earlier commands."] if found else []
    if strange:
        remarks.append(f"{counted(strange, 'run')} in the folder left out, with another {few(keys)}.")
    if of_others:
        remarks.append(f"{counted(of_others, 'run')} in the folder left out, with other images.")
    if unfinished:
        remarks.append(f"{counted(unfinished, 'run')} of earlier commands left out, not finished.")
    return found, remarks


def _settings(overrides: Sequence[str], x: str) -> frozenset[tuple[str, str]]:
    """Return the settings of a run that can change its result, but for those that vary within a line."""
    settings = map(key_and_value, overrides)
    return frozenset((key, value) for key, value in settings if key not in ("seed", x) and not without_effect(key))


def _had_other_images(record: Mapping[str, Any], others: Sequence[Mapping[str, Any]], x: str) -> bool:
    """Tell whether a finished run had other images than all others, as far as their records show.

    Of limited training images only the number is known, and along `data.limit` it may be any. Where groups are
    drawn, the numbers of another seed may differ.

    Args:
        record: The run's `run.json`.
        others: Those of the finished runs of the command.
        x: What lies along the figure.
    """
    data = record["config"]["data"]
    is_whole = x != LIMIT and data.get("limit") is None
    same_seed = [other for other in others if other["seed"] == record["seed"]]
    is_drawn = data.get("group") is not None and not same_seed

    def told(of: Mapping[str, Any]) -> tuple[Any, ...]:
        numbers = {
            split: number
            for split, number in of["data"]["images"].items()
            if not is_drawn and (x != LIMIT or split != "train")
        }
        return of["class_names"], numbers, of["data"]["sizes"] if is_whole else None

    return bool(others) and told(record) not in map(told, same_seed or others)
