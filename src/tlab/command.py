"""The command line that all entry points share: Hydra, --help, and a user's mistakes in one sentence.

Nothing here imports torch, so `--help`, `--cfg job` and tab completion answer at once.
"""

import atexit
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from tlab.config.hydra import conf_dir, list_groups_once, prepare_hydra
from tlab.config.overrides import key_and_value, shell_argument, tidy
from tlab.core.error_messages import exit_code, exit_with_error, is_mistake, one_line, user_message
from tlab.core.errors import FAILED, INTERRUPTED, UserError
from tlab.core.files import this_command
from tlab.core.hardware import limit_spinning
from tlab.core.lazy_imports import defer_heavy_imports
from tlab.core.signals import end_when_stopped
from tlab.core.standard_streams import guard_streams
from tlab.sweeps.task import Task

# Hydra's flags for what a command does, of which it takes one, and how each is named here
MODES = {
    **{"-m": "-m", "--multirun": "-m", "-r": "--run", "--run": "--run", "-c": "--cfg", "--cfg": "--cfg"},
    **{"-i": "--info", "--info": "--info", "-sc": "--shell-completion", "--shell-completion": "--shell-completion"},
}


def run_command(
    function: Callable[[DictConfig], Any],
    config_name: str,
    gathered: Callable[[list[str]], list[str]] | None = None,
    sweep: bool = True,
) -> None:
    """Compose `config_name` from the command line and hand it to `function`; in a sweep (`-m`) for each run.

    Exits with code 2 and one sentence on a mistake of the user; `debug=true` shows its traceback instead. In a
    sweep the other runs still take place, and the code is 1.

    Args:
        function: The command.
        config_name: Name of its configuration.
        gathered: Returns tidy arguments with the overrides of runs in one key; for a command that takes these too.
        sweep: Whether commas in them separate the values of a sweep.
    """
    guard_streams()
    if gathered is not None:
        try:
            sys.argv[1:] = gathered(tidy(sys.argv[1:], config_name, sweep))
        except UserError as error:
            exit_with_error(str(error))
    if sys.argv[1:] in (["--shell-completion", "install=bash"], ["--shell-completion", "install=zsh"]):
        print(Path(__file__).with_name("completion.bash").read_text(encoding="utf-8"))
        return
    this_command()  # named before it starts other processes
    limit_spinning()  # this and the next before torch is imported
    defer_heavy_imports()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises instead of printing; `user_message` prints
    try:
        sys.argv[1:] = arguments = tidy(sys.argv[1:], config_name)
        _check_modes(arguments)
    except UserError as error:
        exit_with_error(str(error))
    debug = dict(map(key_and_value, arguments)).get("debug", "").lower()
    task = Task(function, debug=debug in ("true", "yes", "on", "y", "1"))  # as OmegaConf reads them
    logging.raiseExceptions = task.debug  # a log on a full disk would print a traceback for every line
    try:
        prepare_hydra(arguments)
        if {"--help", "-h"} & {*arguments}:
            list_groups_once()
        hydra.main(config_path=str(conf_dir()), config_name=config_name, version_base="1.3")(task)()
        if task.result is not None and task.result.finished:
            _compare(task.result.directory, task.debug)
    except Exception as error:
        if task.debug or not is_mistake(error):
            raise
        exit_with_error(user_message(error, arguments), exit_code(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        atexit.register(end_when_stopped)  # one more Ctrl-C while Python shuts down
    if task.failures or (task.result is not None and task.result.failed):
        sys.exit(FAILED)


def _check_modes(arguments: list[str]) -> None:
    """Refuse a command line that says in two ways what it does.

    Raises:
        UserError: It does; `-m` is the one to leave out, since the others are about a single run.
    """
    given = sorted({MODES[flag] for each in arguments if (flag := each.partition("=")[0]) in MODES}, reverse=True)
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} cannot be given together; leave out {given[0]}")


def _compare(sweep: Path, debug: bool) -> None:
    """Compare a sweep's runs; a failure of that is only printed."""
    from tlab.comparison.write import compare  # which imports this file

    try:
        compare(sweep)
    except Exception as error:
        if debug:
            raise
        again = f"python -m tlab.compare {shell_argument('sweep', sweep)} debug=true"
        print(f"tlab: the runs are not compared ({one_line(error)}); {again} says more", file=sys.stderr)


def quiet() -> None:
    """Silence Lightning's warnings about what tlab has decided on purpose."""
    import lightning.pytorch  # sets its own level when imported

    logging.getLogger(lightning.pytorch.__name__).setLevel(logging.WARNING)
    for message in (
        r".*isinstance\(treespec, LeafSpec\)",  # Lightning 2.6 with torch 2.15
        r".*does not have many workers",
        r".*is smaller than the logging interval",
        r".*`ckpt_path`, callbacks used to create the checkpoint",
        r"It is recommended to use `self\.log\('(val|test)/",  # these are reduced over all processes already
        r"The `srun` command is available",  # warned of even where an environment is given
    ):
        warnings.filterwarnings("ignore", message=message)
