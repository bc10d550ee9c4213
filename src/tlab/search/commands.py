"""The command lines that resume a search and repeat a trial."""

from pathlib import Path
from typing import TYPE_CHECKING

from tlab.config.hydra import compose
from tlab.config.overrides import as_override
from tlab.config.safe_loading import reaches_out
from tlab.config.unused_keys import Run, without_unused
from tlab.core.text import shell_command, short_path

if TYPE_CHECKING:  # imported when a search begins, not for --help
    from optuna.trial import FrozenTrial

    from tlab.search.study import Study


def default_directory(name: str) -> Path:
    """Return where the study of this name lies without `dir=DIR` (see conf/tune.yaml)."""
    return Path("outputs/tune") / name


def resume_command(study: "Study") -> str:
    """Return the command line that resumes a study: its name, and its overrides where these ask resolvers."""
    usual = default_directory(study.name).absolute() == study.directory.absolute()
    place = [] if usual else [as_override("dir", short_path(study.directory.absolute()))]
    fixed, searched = study.definition.fixed, study.definition.searched
    overrides = [*fixed, *(f"{key}={text}" for key, text in searched.items())]
    again = overrides if any(map(reaches_out, overrides)) else []
    return shell_command(["python", "-m", "tlab.tune", as_override("study", study.name), *place, *again])


def repeat_command(study: "Study", trial: "FrozenTrial") -> str:
    """Return the command line that runs a trial's settings again, with all its seeds.

    Keys that other trials use, and this one does not, are left out.
    """
    seeds = ",".join(map(str, study.definition.seeds))
    overrides = study.space.overrides(trial.params)
    run = compose([*overrides, as_override("run_dir", study.directory)], with_hydra=True)
    overrides = [*without_unused(overrides, Run(run)), f"seed={seeds}"]
    flag = ["-m"] if len(study.definition.seeds) > 1 else []
    return shell_command(["python", "-m", "tlab.train", *flag, *study.definition.config_dirs, *overrides])
