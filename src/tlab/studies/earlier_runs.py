"""Runs that earlier commands of a study have left in its folder, and that belong into its figure."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import OmegaConf

from tlab.config.diff import without_effect
from tlab.config.overrides import key_and_value
from tlab.config.safe_loading import inert
from tlab.core.errors import ImagesGone, RunDirectoryConflict, UserError
from tlab.core.text import counted, few
from tlab.data.decode_options import options_of
from tlab.runs.data_check import check_images
from tlab.runs.directory import RunDirectory
from tlab.studies.study_runs import StudyRun
from tlab.sweeps.resume import Finished, source_of


def earlier_runs(
    x: str, results: Mapping[StudyRun, RunDirectory], directory: Path, looked: Finished
) -> tuple[dict[StudyRun, RunDirectory], list[str]]:
    """Return the finished runs of other seeds and values of `x`, and remarks on these and on what is left out.

    Args:
        x: What lies along the figure.
        results: Directory of each run of this command.
        directory: The study's directory.
        looked: What has looked at the images.
    """
    own = {result.path for result in results.values()}
    lines = {_settings(result.overrides(), x): run for run, result in results.items()}
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
        elif had_other_images(other, lines[settings].overrides, looked):
            of_others += 1
        else:
            run = lines[settings]
            place = dict(map(key_and_value, overrides)).get(x, run.x)
            found[StudyRun(run.line, place, tuple(overrides))] = other
    remarks = [f"With {counted(found, 'run')} of earlier commands."] if found else []
    if strange:
        remarks.append(f"{counted(strange, 'run')} in the folder left out, with another {few(keys)}.")
    if of_others:
        remarks.append(f"{counted(of_others, 'run')} in the folder left out, with other images than there are now.")
    if unfinished:
        remarks.append(f"{counted(unfinished, 'run')} of earlier commands left out, not finished.")
    return found, remarks


def _settings(overrides: Sequence[str], x: str) -> frozenset[tuple[str, str]]:
    """Return the settings of a run that can change its result, but for those that vary within a line."""
    settings = map(key_and_value, overrides)
    return frozenset((key, value) for key, value in settings if key not in ("seed", x) and not without_effect(key))


def had_other_images(run: RunDirectory, overrides: Sequence[str], looked: Finished) -> bool:
    """Tell whether a finished run had other images than there are now, as far as these can be listed.

    Args:
        run: Directory of the run.
        overrides: Those of a run of this command; with `resume=anyway` other images are fine.
        looked: What has looked at the images.
    """
    with suppress(UserError):
        if looked.are_present(run, overrides):
            return False
    config = OmegaConf.create(inert(run.record["config"]))
    try:
        source = instantiate(source_of(run, overrides), _convert_="all")
        resume = dict(map(key_and_value, overrides)).get("resume", "auto")
        check_images(run, source, resume, options=options_of(config.data), seconds=config.data.check_seconds)
    except RunDirectoryConflict:
        return True
    except ImagesGone:
        return False
    return False
