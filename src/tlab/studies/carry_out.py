"""The runs of a study as one sweep, which another command resumes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from tlab.config.overrides import as_override, key_and_value
from tlab.runs.directory import RunDirectory
from tlab.runs.manifest import SweepManifest, read_manifest
from tlab.studies.study_runs import StudyRun
from tlab.sweeps.jobs import check_constants, constants, make_jobs
from tlab.sweeps.sweep import sweep
from tlab.sweeps.task import Task


def carry_out(runs: Sequence[StudyRun], cfg: DictConfig, task: Task) -> dict[StudyRun, RunDirectory]:
    """Run what is not finished yet, first those from which others start, and return each run's directory.

    Args:
        runs: Runs of the study.
        cfg: Configuration of tlab.study.
        task: Task of one run of tlab.train.

    Raises:
        UserError: A mistake that shows before anything has run; HydraException likewise.
        SystemExit: The study was told to stop; the run at hand has saved.
    """
    directory = Path(cfg.output).absolute()
    every = [run.overrides for run in runs]
    manifest = read_manifest(directory) or SweepManifest(constants(every))
    check_constants(every, directory, manifest, "another folder: output=DIR")
    hydra: Any = GlobalHydra.instance().hydra
    ours = [each for each in HydraConfig.get().overrides.hydra if key_and_value(each)[0] != "hydra.mode"]
    config = hydra.compose_config(
        config_name="train",
        overrides=[*ours, "hydra.mode=MULTIRUN", as_override("hydra.sweep.dir", directory), *cfg.overrides],
        run_mode=RunMode.MULTIRUN,
        with_log_configuration=False,
    )
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
    done: dict[StudyRun, RunDirectory] = {}
    while waiting := [run for run in runs if run not in done]:
        ready = {run: _resolved(run, done) for run in waiting if done.keys() >= {*run.origins.values()}}
        sweep([*ready.values()], config, context, task, manifest.constants)
        jobs = make_jobs([*ready.values()], str(config.seed), directory, manifest)
        found = {job.overrides: job.run for job in jobs}
        done |= {run: found[overrides] for run, overrides in ready.items()}
    return done


def _resolved(run: StudyRun, done: Mapping[StudyRun, RunDirectory]) -> tuple[str, ...]:
    """Return the overrides of a run, with the directories of those that it starts from.

    Each is named as that of the run's own seed, `${seed}`, so that the runs of all seeds have the same setting.
    """
    places = {name: done[origin].path.parent / "seed=${seed}" for name, origin in run.origins.items()}
    resolved = []
    for override in run.overrides:
        key, _, value = override.partition("=")
        name = value[1:-1] if value[:1] == "{" else ""
        resolved.append(as_override(key, places[name]) if name in places else override)
    return tuple(resolved)
