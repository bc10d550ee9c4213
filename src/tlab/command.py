"""The command line that train, evaluate and predict share: Hydra, people's help, mistakes in one sentence.

Nothing here imports torch, so `--help`, `--cfg job` and tab completion answer at once.
"""

import logging
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tlab import schema
from tlab.cache import this_command
from tlab.checks import typed
from tlab.cores import limit_spinning
from tlab.errors import FAILED, INTERRUPTED, UserError
from tlab.imports import defer_heavy_imports
from tlab.launchers.presets import keep_own_presets
from tlab.mistakes import fail, is_mistake, sentence
from tlab.overrides import key_and_value, named_choices, names_choices, of_keys, quoted, tidy
from tlab.sweeps.naming import run_name
from tlab.sweeps.task import Task, ignore_schema_warnings, one_line

NO_GROUPS_OF_A_RUN = {"hydra", "space", "sampler", "pruner"}  # the last three are of tlab.tune


def conf_dir() -> Path:
    """Return the folder of the YAML files: inside an installed wheel, or at the top of a checkout."""
    installed = Path(__file__).parent / "conf"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "conf"


def run_command(function: Callable[[DictConfig], Any], config_name: str) -> None:
    """Compose `config_name` from the command line and hand it to `function`; in a sweep (`-m`) for each run.

    Exits with code 2 and one sentence on a mistake of the user; `debug=true` shows its traceback instead. In a
    sweep the other runs still take place, and the code is 1.
    """
    if sys.argv[1:] in (["--shell-completion", "install=bash"], ["--shell-completion", "install=zsh"]):
        print(Path(__file__).with_name("completion.bash").read_text(encoding="utf-8"))
        return
    this_command()  # named before it starts other processes
    limit_spinning()  # this and the next before torch is imported
    defer_heavy_imports()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises instead of printing; `sentence` prints
    sys.argv[1:] = arguments = tidy(sys.argv[1:])
    debug = dict(map(key_and_value, arguments)).get("debug", "").lower()
    task = Task(function, debug=debug in ("true", "yes", "on", "y", "1"))  # as OmegaConf reads them
    try:
        prepare_hydra(arguments)
        hydra.main(config_path=str(conf_dir()), config_name=config_name, version_base="1.3")(task)()
        if task.result is not None and task.result.finished:
            _compare(task.result.directory, task.debug)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if task.debug or not is_mistake(error):
            raise
        fail(sentence(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    if task.failures or (task.result is not None and task.result.failed):
        sys.exit(FAILED)


def _compare(sweep: Path, debug: bool) -> None:
    """Compare a sweep's runs; they are good where that fails."""
    from tlab.compare import compare  # which imports this file

    try:
        compare(sweep)
    except Exception as error:
        if debug:
            raise
        again = f"python -m tlab.compare {quoted('sweep', str(sweep))} debug=true"
        print(f"tlab: the runs are not compared ({one_line(error)}); {again} says more", file=sys.stderr)


def compose(overrides: Sequence[str], config_name: str = "train", with_hydra: bool = False) -> DictConfig:
    """Return the configuration that the command line would compose from `overrides`.

    Outside a command (a notebook, a test) `overrides` must name the run's directory: `run_dir=DIR`.

    Args:
        overrides: As on the command line.
        config_name: YAML file.
        with_hydra: Keep the node `hydra`, which has the choices of the groups.
    """
    prepare_hydra(overrides)
    if GlobalHydra.instance().is_initialized():
        return hydra.compose(config_name, list(overrides), with_hydra)
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose(config_name, list(overrides), with_hydra)


def quiet() -> None:
    """Silence what Lightning says about things that tlab has decided on purpose."""
    import lightning.pytorch  # sets its own level when imported

    logging.getLogger(lightning.pytorch.__name__).setLevel(logging.WARNING)
    for message in (
        r".*isinstance\(treespec, LeafSpec\)",  # Lightning 2.6 with torch 2.15
        r".*does not have many workers",
        r".*is smaller than the logging interval",
        r".*`ckpt_path`, callbacks used to create the checkpoint",
        r"It is recommended to use `self\.log\('(val|test)/",  # these are of all processes already
        r"Checkpoint directory .* exists and is not empty",  # a run that goes on
        r"The `srun` command is available",  # asked for whatever the environment given
    ):
        warnings.filterwarnings("ignore", message=message)


def prepare_hydra(overrides: Sequence[str]) -> None:
    """Register the schema, tlab's resolvers, and every backbone named in `overrides` without a YAML.

    Raises:
        UserError: The choice of a group is no name.
    """
    schema.register()
    ignore_schema_warnings()
    keep_own_presets()
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    places = [conf_dir(), *user_conf_dirs(overrides)]
    OmegaConf.register_new_resolver("choices", lambda *groups: choices(places, groups), replace=True)
    OmegaConf.register_new_resolver("keys", key_lines, replace=True)
    for override in of_keys(groups(places), overrides):
        if not names_choices(override):
            there = ", ".join(choice_names(places, override.key_or_group))
            raise UserError(f"{override.input_line} names no choice of the group; there are {there}")
    for name in named_choices("backbone", overrides) - {*choice_names(places, "backbone")}:
        if re.fullmatch(r"[^\W_][\w.-]*", name):  # any other torchvision model: the general rule finds its stages
            ConfigStore.instance().store(
                group="backbone", name=name, node={"defaults": ["torchvision"], "name": name}
            )


def user_conf_dirs(arguments: Sequence[str]) -> list[Path]:
    """Return the folders that `--config-dir` and `hydra.searchpath` add to the YAML files."""
    flags = re.findall(r"^(?:--config-dir|-cd)[=\n](.+)$", "\n".join(arguments), flags=re.MULTILINE)
    lists = [override.value() for override in of_keys(["hydra.searchpath"], arguments)]
    paths = [str(path).removeprefix("file://") for paths in lists if isinstance(paths, list) for path in paths]
    return [Path(path) for path in (*flags, *paths) if "://" not in path]  # of a package none is looked through


def groups(places: Sequence[Path]) -> set[str]:
    """Return the names of the configuration groups: of the folders of YAML files."""
    return {folder.name for place in places for folder in place.glob("[!.]*/")}


def choice_names(places: Sequence[Path], group: str) -> list[str]:
    """Return the choices of a group, sorted."""
    files = [file for place in places for file in (place / group).glob("*.yaml")]
    return sorted(file.stem for file in files if not file.name.startswith("_"))


def choices(places: Sequence[Path], named: Sequence[str] = ()) -> str:
    """Return the configuration groups and their choices, a line each, for --help; by default those of a run."""
    lines = []
    for group in named or sorted(groups(places) - NO_GROUPS_OF_A_RUN):
        names = " ".join(choice_names(places, group))
        lines += textwrap.wrap(f"{group:<11} {names}", 96, initial_indent="  ", subsequent_indent=" " * 14)
    return "\n".join(lines)


def key_lines(listed: str = "", *, _root_: DictConfig) -> str:
    """Return keys of a command with their values and meanings, for --help.

    Args:
        listed: The keys, as they are typed (`data.root=DIR`), with spaces between them; "": all.
        _root_: The command's configuration.
    """
    declared = schema.keys(schema.COMMANDS[_root_.hydra.help.app_name.removeprefix("tlab.")])
    lines = []
    for name in listed.split() or [name for name, each in declared.items() if each.metadata["help"]]:
        key = name.partition("=")[0].removesuffix(".KEY")
        choices = list(map(typed, declared[key].metadata["choices"]))
        named = f" ({', '.join(choices[:-1])} or {choices[-1]})" if choices else ""
        value = OmegaConf.select(_root_, key, default="-", throw_on_resolution_failure=False)
        shown = ("..." if value else "{}") if isinstance(value, DictConfig) else typed(value)
        start = f"  {name:<37} {shown:<9} "
        lines += textwrap.wrap(f"{start}{declared[key].metadata['help']}{named}", 120, subsequent_indent=" " * 50)
    return "\n".join(lines).replace("$", "$$")  # Hydra fills the page in like a string.Template
