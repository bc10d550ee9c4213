"""Hyper-parameter search: `python -m tlab.tune study=NAME data.root=DIR 'optimizer.lr=interval(0.01, 0.1)'`."""

import logging
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from tlab.command import run_command
from tlab.config.hydra import compose, conf_dir
from tlab.config.overrides import key_and_value, quoted, tidy
from tlab.config.schema import TuneConfig
from tlab.config.targets import with_present_targets
from tlab.config.trusted import check_targets, conf_targets, reaches_out, read_node
from tlab.config.unused_keys import Run, check_used
from tlab.config.validation import check, check_values
from tlab.core.error_messages import exit_with_error, is_mistake, user_message
from tlab.core.errors import UserError
from tlab.search.arguments import gather
from tlab.search.commands import config_dirs, default_directory, resume_command
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

if TYPE_CHECKING:  # imported when the search begins, not for --help
    from tlab.runs.pruning import Pruning
    from tlab.search.trial_lines import Progress
    from tlab.sweeps.worker_pool import WorkerPool

log = logging.getLogger(__name__)

FOLDERS = re.compile(r"""\+{0,2}hydra\.searchpath=\[?(?:['"]?file://[^\],'"\\$]+['"]?,? ?)+\]?""")


def define(cfg: DictConfig) -> tuple[Definition, Space]:
    """Return definition and space of the search: the command's, else those of the study of this name.

    Raises:
        UserError: The study of this name is another one, or no run could have a setting of the space.
    """
    from tlab.assembly.build import best_is

    directory = Path(cfg.dir).absolute()
    stored = read_definition(directory)
    how = _how(cfg, stored)
    loader = GlobalHydra.instance().config_loader()
    same = stored is not None and not (cfg.overrides or cfg.space)
    if stored is not None and same:
        space = _stored_space(stored, directory, loader)
    else:
        space = read_space(cfg.overrides, OmegaConf.to_container(cfg.space), loader)  # type: ignore[arg-type]
    run = _first_run(space, directory, new=cfg.overrides if stored is None else None)
    if (targets := _targets(cfg)) is not None:
        check_targets(run, targets, directory / STUDY_FILE)
    if how["pruner"].get("n_warmup_steps", 0) is None:
        how["pruner"]["n_warmup_steps"] = 2 * run.trainer.max_epochs // 3  # high rates pay late in a schedule
    seeds = list(cfg.seeds) if cfg.seeds else stored.seeds if stored else [0]
    storage = cfg.storage
    if storage is None:
        storage = stored.storage if stored else usual_storage(HydraConfig.get().launcher._target_)
    storage_address(storage, directory)  # a mistake shows at once
    if stored is not None and same:
        definition = replace(stored, seeds=seeds, storage=storage, **how)
    else:
        aim = (run.checkpoint.monitor, best_is(run))
        definition = Definition(list(space.fixed), dict(space.searched), seeds, *aim, storage, **how)
    if stored is not None and (difference := stored.differs(definition)):
        raise UserError(
            f"study={cfg.study} is another one, it differs in {difference}; give another study=NAME, or "
            f"study={cfg.study} alone to go on with it"
        )
    return definition, space


def _stored_space(stored: Definition, directory: Path, loader: ConfigLoader) -> Space:
    """Return the space of a stored study.

    Raises:
        UserError: An override does not belong to a trial (`hydra.searchpath=[pkg://NAME]` would import NAME), or
            asks a resolver (`${oc.env:SECRET}`); those of a typed command are resolved before they are stored.
    """
    for text in (*stored.fixed, *stored.searched, *stored.searched.values()):
        if text.lstrip("+~ ").startswith("hydra") or reaches_out(text):
            raise UserError(f"{text} in {directory / STUDY_FILE} is not of a trial; give another study=NAME")
    return read_space([*stored.fixed, *(f"{key}={text}" for key, text in stored.searched.items())], {}, loader)


def _first_run(space: Space, directory: Path, new: Sequence[str] | None) -> DictConfig:
    """Return the configuration of a trial; refuse settings that no run could have, and keys that no trial uses.

    Args:
        space: The search space.
        directory: The study's directory.
        new: Overrides of the command that begins the study: every choice and both ends of every interval are
            checked. None: the study is resumed.
    """

    def composed(values: Mapping[str, Value]) -> DictConfig:
        run = compose([*space.overrides(values), quoted("run_dir", str(directory))], with_hydra=True)
        return with_present_targets(run)

    runs = list(map(composed, space.corners() if new is not None else space.corners()[:1]))
    for run in runs:
        check(run)
    if new is not None:
        others = (Run(composed(values)) for values in space.combinations())
        for remark in check_used(new, list(map(Run, runs)), others):
            log.info(remark)
    return OmegaConf.masked_copy(runs[0], [str(key) for key in runs[0] if key != "hydra"])


def _how(cfg: DictConfig, stored: Definition | None) -> dict[str, Any]:
    """Return budget, sampler and pruner: the command's where it names them, else the study's."""
    given = {key_and_value(override)[0] for override in HydraConfig.get().overrides.task}
    how: dict[str, Any] = {"trials": cfg.budget.trials}
    how |= {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("sampler", "pruner")}
    if stored is None:
        return how
    named = {"trials" if key == "budget.trials" else key.partition(".")[0] for key in given}
    how = {key: value if key in named else getattr(stored, key) for key, value in how.items()}
    for key in {"sampler", "pruner"} - named:
        how[key] = read_node(how[key], key, Path(cfg.dir).absolute() / STUDY_FILE)
    return how


def _targets(cfg: DictConfig) -> frozenset[str] | None:
    """Return the targets that runs may build where only `study.json` says what to search; None: any typed one."""
    return None if cfg.overrides or cfg.space else conf_targets(conf_dir())


def open_study(cfg: DictConfig) -> Study:
    """Return the command's study, which is created if missing."""
    return Study(cfg.study, Path(cfg.dir).absolute(), *define(cfg), targets=_targets(cfg))


def worker(cfg: DictConfig, machine: "WorkerPool | None" = None) -> str | None:
    """Run trials as one of several processes; returns the user's mistake that it met, if any.

    Args:
        cfg: The command's configuration, with the number of this worker.
        machine: Pool of the workers on this machine; None on other machines.

    Raises:
        SystemExit: The worker was told to stop, and is on another machine.
    """
    output = Path(HydraConfig.get().runtime.output_dir) / "output.txt"
    try:
        with machine.work(output) if machine is not None else nullcontext():
            search(open_study(cfg), cfg)
    except SystemExit:
        if machine is None:  # a job of a cluster ends with its run's code, by which Slurm queues it again
            raise
        return None  # would end the waiting process, which has been told to stop as well
    except Exception as error:
        if not is_mistake(error):
            raise
        return user_message(error)
    return None


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
    from tlab.search.summary import close
    from tlab.search.trial_lines import Progress
    from tlab.search.trial_worker import launch
    from tlab.tune import worker as task  # by its module's name, under which other processes find it

    check_values(cfg, TuneConfig)
    study = open_study(cfg)
    study.definition = replace(study.definition, config_dirs=config_dirs(sys.argv[1:]))
    write_definition(study.directory, study.definition)
    try:
        if cfg.workers > 1:
            launch(task, study, cfg.workers)
        else:
            search(study, cfg, Progress(study))
    except (KeyboardInterrupt, SystemExit):
        print(f"tlab: stopped; {resume_command(study.name, study.directory)} goes on", file=sys.stderr)
        raise
    close(study)


def with_config_dirs(arguments: list[str]) -> list[str]:
    """Return the arguments with the study's own folders of YAML files, where they name none.

    What they build is checked by `tlab.config.trusted`, like the rest of `study.json`.

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
            f"{shlex.join(stored.config_dirs)} in {STUDY_FILE} of study={given['study']} names more than folders; "
            f"give --config-dir DIR again on the command line"
        )
    flags = [argument for argument in found if argument not in paths]
    place = next(i for i, argument in enumerate(arguments) if key_and_value(argument)[0] == "study")
    return [*flags, *arguments[:place], *paths, *arguments[place:]]  # Hydra takes overrides in one piece


def main() -> None:
    """Entry point of `python -m tlab.tune`."""
    try:
        sys.argv[1:] = with_config_dirs(gather(tidy(sys.argv[1:])))
    except UserError as error:
        exit_with_error(str(error))
    run_command(run, "tune")


if __name__ == "__main__":
    main()
