"""Hyper-parameter search: `python -m tlab.tune study=NAME data.root=DIR 'optimizer.lr=interval(0.01, 0.1)'`."""

import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from tlab.command import run_command
from tlab.config.hydra import compose, conf_dir, config_dirs
from tlab.config.overrides import as_override, key_and_value
from tlab.config.safe_loading import check_targets, conf_targets, reaches_out, read_node
from tlab.config.schema import TuneConfig
from tlab.config.targets import with_present_targets
from tlab.config.unused_keys import Run, check_used
from tlab.config.validation import best_is, check, check_values
from tlab.core.errors import UserError
from tlab.core.text import shell_command
from tlab.search.command_line import gather
from tlab.search.commands import default_directory, resume_command
from tlab.search.space import Space, Value, read_space
from tlab.search.study import (
    STUDY_FILE,
    Definition,
    Study,
    read_definition,
    storage_address,
    usual_storage,
    write_definition,
)
from tlab.sweeps.launched import IN_PROCESS, LOCAL
from tlab.sweeps.weights import fetch_weights_of

if TYPE_CHECKING:  # imported when the search begins, not for --help
    from tlab.runs.pruning import Pruning
    from tlab.search.trial_lines import Progress

log = logging.getLogger(__name__)

FOLDERS = re.compile(r"""\+{0,2}hydra\.searchpath=\[?(?:['"]?file://[^\],'"\\$]+['"]?,? ?)+\]?""")


def define(cfg: DictConfig) -> tuple[Definition, Space]:
    """Return definition and space of the search: the command's, else those of the study of this name.

    Raises:
        UserError: The study of this name is another one, or no run could have a setting of the space.
    """
    directory = Path(cfg.dir).absolute()
    stored = read_definition(directory)
    how = _how(cfg, stored)
    loader = GlobalHydra.instance().config_loader()
    alone = None if cfg.overrides or cfg.space else stored  # says what to search
    if alone is not None:
        space = _stored_space(alone, directory, loader)
    else:
        space = read_space(cfg.overrides, OmegaConf.to_container(cfg.space), loader)  # type: ignore[arg-type]
    run, *others = _some_runs(space, directory, new=cfg.overrides if stored is None else None)
    if (targets := _targets(cfg)) is not None:
        check_targets(run, targets, directory / STUDY_FILE)
    if how["pruner"].get("n_warmup_steps", 0) is None:
        how["pruner"]["n_warmup_steps"] = 2 * run.trainer.max_epochs // 3  # high rates pay late in a schedule
    seeds = list(cfg.seeds) if cfg.seeds else stored.seeds if stored else [0]
    storage = cfg.storage
    if storage is None:
        storage = stored.storage if stored else usual_storage(HydraConfig.get().launcher._target_)
    storage_address(storage, directory)  # a mistake shows at once
    if alone is not None:
        definition = replace(alone, seeds=seeds, storage=storage, **how)
    else:
        aim = (run.checkpoint.monitor, best_is(run.checkpoint.monitor, run.checkpoint.mode))
        definition = Definition(list(space.fixed), dict(space.searched), seeds, *aim, storage, **how)
    if stored is not None and (difference := stored.differs(definition)):
        raise UserError(
            f"study={cfg.study} is another one, it differs in {difference}; give another study=NAME, or "
            f"study={cfg.study} alone to resume it"
        )
    if stored is None and HydraConfig.get().launcher._target_.startswith((*IN_PROCESS, LOCAL)):
        only = all(key.partition(".")[0] == "backbone" for key in space.searched)
        fetch_weights_of([run, *others], "study", needs_backbone=only)
    return definition, space


def _stored_space(stored: Definition, directory: Path, loader: ConfigLoader) -> Space:
    """Return the space of a stored study, if its overrides are a trial's and ask no resolver (`${oc.env:SECRET}`).

    `hydra.searchpath=[pkg://NAME]` would import NAME. Overrides of a typed command are stored resolved, but for
    those of loggers and callbacks, which may stand for secrets.
    """
    for text in (*stored.fixed, *stored.searched, *stored.searched.values()):
        if text.lstrip("+~ ").startswith("hydra"):
            raise UserError(f"{text} in {directory / STUDY_FILE} is not of a trial; give another study=NAME")
        if reaches_out(text):
            raise UserError(
                f"{text} in {directory / STUDY_FILE} asks this machine for a value, as only a command line may; "
                "give the overrides of the search again, as they were typed first, beside the study's name"
            )
    return read_space([*stored.fixed, *(f"{key}={text}" for key, text in stored.searched.items())], {}, loader)


def _some_runs(space: Space, directory: Path, new: Sequence[str] | None) -> list[DictConfig]:
    """Return configurations of trials; refuse settings that no run could have, and keys that no trial uses.

    If a command begins the study, by the overrides `new`, they have every choice and both ends of intervals.
    """

    def composed(values: Mapping[str, Value]) -> DictConfig:
        run = compose([*space.overrides(values), as_override("run_dir", directory)], with_hydra=True)
        return with_present_targets(run)

    runs = list(map(composed, space.corners() if new is not None else space.corners()[:1]))
    for run in runs:
        check(run)
        if run.refit:
            raise UserError(
                "refit=true is of no use in a search, which goes by validation alone; leave it out, and give it "
                "with tlab.train to the best trial's settings"
            )
    if new is not None:
        others = (Run(composed(values)) for values in space.combinations())
        for remark in check_used(new, list(map(Run, runs)), others):
            log.info(remark)
    return [OmegaConf.masked_copy(run, [str(key) for key in run if key != "hydra"]) for run in runs]


def _how(cfg: DictConfig, stored: Definition | None) -> dict[str, Any]:
    """Return budget, sampler and pruner: the command's where it names them, else the study's."""
    given = {key_and_value(override)[0] for override in HydraConfig.get().overrides.task}
    how: dict[str, Any] = {"trials": cfg.budget.trials}
    if stored is not None and "budget.trials" not in given:
        how["trials"] = stored.trials
    for key in ("sampler", "pruner"):
        if stored is None or key in {name.partition(".")[0] for name in given}:
            how[key] = OmegaConf.to_container(cfg[key], resolve=True)
        else:
            how[key] = read_node(getattr(stored, key), key, Path(cfg.dir).absolute() / STUDY_FILE)
    return how


def _targets(cfg: DictConfig) -> frozenset[str] | None:
    """Return the targets that runs may build where only `study.json` says what to search; None: any typed one."""
    return None if cfg.overrides or cfg.space else conf_targets(conf_dir())


def open_study(cfg: DictConfig) -> Study:
    """Return the command's study, which is created if missing."""
    return Study(cfg.study, Path(cfg.dir).absolute(), *define(cfg), targets=_targets(cfg))


def worker(cfg: DictConfig) -> None:
    """Run trials as one of several processes."""
    search(open_study(cfg), cfg)


def search(study: Study, cfg: DictConfig, progress: "Progress | None" = None) -> None:
    """Run trials in this process."""
    from tlab.search.trial import check_trials
    from tlab.search.trial_worker import work
    from tlab.train import train

    def train_trial(run: DictConfig, given: list[str], pruning: "Pruning | None") -> dict[str, float]:
        run.resume = cfg.resume
        return train(run, given, pruning)

    check_trials(study, cfg.resume)
    work(study, train_trial, cfg.budget.minutes, progress)


def run(cfg: DictConfig) -> None:
    """Search, and print the summary."""
    check_values(cfg, TuneConfig)
    study = open_study(cfg)
    from tlab.search.summary import close
    from tlab.search.trial_lines import Progress
    from tlab.search.trial_worker import launch

    study.definition = replace(study.definition, config_dirs=config_dirs(sys.argv[1:]))
    write_definition(study.directory, study.definition)
    try:
        if cfg.workers > 1:
            launch(worker, study, cfg.workers)
        else:
            search(study, cfg, Progress(study))
    except (KeyboardInterrupt, SystemExit):
        print(f"tlab: stopped; {resume_command(study)} resumes it", file=sys.stderr)
        raise
    close(study)


def with_config_dirs(arguments: list[str]) -> list[str]:
    """Return the arguments with the study's own folders of YAML files, where they name none.

    What they build is checked by `tlab.config.safe_loading`, like the rest of `study.json`.

    Raises:
        UserError: `study.json` is damaged, or names something other than folders.
    """
    given = dict(map(key_and_value, arguments))
    if config_dirs(arguments) or "study" not in given:
        return arguments
    stored = read_definition(Path(given.get("dir") or default_directory(given["study"])))
    if stored is None:
        return arguments
    found = config_dirs(stored.config_dirs)
    paths = [argument for argument in found if "hydra.searchpath=" in argument]
    if found != stored.config_dirs or not all(map(FOLDERS.fullmatch, paths)):  # `pkg://` would be imported
        raise UserError(
            f"{shell_command(stored.config_dirs)} in {STUDY_FILE} of study={given['study']} names more than "
            f"folders; give --config-dir DIR again on the command line"
        )
    flags = [argument for argument in found if argument not in paths]
    place = next(i for i, argument in enumerate(arguments) if key_and_value(argument)[0] == "study")
    return [*flags, *arguments[:place], *paths, *arguments[place:]]  # Hydra takes overrides in one piece


def main() -> None:
    """Entry point of `python -m tlab.tune`."""
    os.environ.setdefault("TLAB_COMMAND", f"python -m tlab.tune {shell_command(sys.argv[1:])}")  # as it was typed
    run_command(run, "tune", lambda given: with_config_dirs(gather(given)))


if __name__ == "__main__":
    main()
