"""The command lines that resume a search and repeat a trial."""

from pathlib import Path
from typing import TYPE_CHECKING

from tlab.config.hydra import compose
from tlab.config.overrides import as_override
from tlab.config.unused_keys import Run, without_unused
from tlab.core.text import shell_command, short_path

if TYPE_CHECKING:  # imported when a search begins, not for --help
    from optuna.trial import FrozenTrial

    from tlab.search.study import Study


def default_directory(name: str) -> Path:
    """Return where the study of this name lies without `dir=DIR` (see conf/tune.yaml)."""
    return Path("outputs/tune") / name


def resume_command(name: str, directory: Path) -> str:
    """Return the command line that resumes the study `name` in `directory`."""
    usual = default_directory(name).absolute() == directory.absolute()
    place = [] if usual else [as_override("dir", short_path(directory.absolute()))]
    return shell_command(["python", "-m", "tlab.tune", as_override("study", name), *place])


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
