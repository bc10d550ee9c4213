"""How Hydra finds conf/ and composes a configuration, in commands and in Python."""

import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra import version
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf, open_dict

from tlab.config import schema
from tlab.config.diff import flat
from tlab.config.overrides import CONFIG_DIR, key_and_value, named_choices, names_choices, of_keys, run_name, tidy
from tlab.config.validation import check_values, typed
from tlab.core.error_messages import bare
from tlab.core.errors import UserError

ONE_CHOICE = {"backbone", "head", "aug", "data", "finetune", "optimizer", "scheduler", "trainer", "loss"}
RUNS_IN_PYTHON = "outputs/runs"
NO_GROUPS_OF_A_RUN = {"hydra", "space", "sampler", "pruner", "studies"}  # of tlab.tune and tlab.study


def head_epochs(usual: int, *, _root_: DictConfig) -> int:
    """Return how long a plan's head trains alone: `usual` epochs, or what leaves one of `trainer.max_epochs`."""
    return max(1, min(usual, _root_.trainer.max_epochs - 1))


# Here, since a run's configuration needs it in every process
OmegaConf.register_new_resolver("head_epochs", head_epochs, replace=True)


def conf_dir() -> Path:
    """Return the folder of the YAML files: in the installed package, or at the top of a checkout."""
    installed = Path(__file__).parents[1] / "conf"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "conf"


def compose(overrides: Sequence[str], config_name: str = "train", with_hydra: bool = False) -> DictConfig:
    """Return the configuration that the command line would compose from `overrides`.

    Outside a command (a notebook, a test) `overrides` must include `run_dir=DIR`.

    Args:
        overrides: Overrides as on the command line.
        config_name: Name of the primary YAML file, without extension.
        with_hydra: Keep the node `hydra`, which has the groups' choices.
    """
    overrides = tidy(overrides, config_name, sweep=False)
    prepare_hydra(overrides)
    with _reading_tlabs_files():
        return hydra.compose(config_name, overrides, with_hydra)


@contextmanager
def _reading_tlabs_files() -> Iterator[None]:
    """Let Hydra compose tlab's YAML files in the block, also inside another program that uses Hydra for its own."""
    before, base = GlobalHydra.instance().hydra, version.getbase()
    places = before.config_loader.get_search_path().get_path() if before is not None else []
    if any(str(place.path).endswith(str(conf_dir())) for place in places):  # a command of tlab
        yield
        return
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = before
        version.VersionBase.instance().version_base = base  # `setbase` takes none, as it is at first


def compose_in_python(overrides: Sequence[str], config_name: str) -> DictConfig:
    """Return a configuration for use outside a command, checked; a run gets a directory named by the time.

    A run's has a node `hydra` with its overrides and choices, see `with_origin_only`.

    Args:
        overrides: Overrides as on the command line.
        config_name: Name of the command.

    Raises:
        UserError: A value is out of its bounds.
    """
    own = [re.sub(r"^hydra\.run\.dir=", "run_dir=", override) for override in overrides]
    cfg = compose(own, config_name, with_hydra=True)
    if config_name == "train" and not any(key_and_value(override)[0] == "run_dir" for override in own):
        settings = f"{cfg.backbone.name}_{cfg.hydra.runtime.choices.finetune}"
        cfg.run_dir = f"{RUNS_IN_PYTHON}/{datetime.now():%Y-%m-%d_%H-%M-%S-%f}_{settings}"
    if config_name == "train":
        cfg = with_origin_only(cfg)
    else:
        with open_dict(cfg):
            del cfg["hydra"]
    check_values(cfg, schema.COMMANDS[config_name])
    return cfg


def is_named_by_time(run_dir: str) -> bool:
    """Tell whether `compose_in_python` has named a run's directory, since nobody else did."""
    return re.fullmatch(rf"{RUNS_IN_PYTHON}/\d{{4}}(-\d\d){{2}}_(\d\d-){{3}}\d{{6}}_.+", run_dir) is not None


def with_origin_only(cfg: DictConfig) -> DictConfig:
    """Keep of the node `hydra` what says what a run was composed from: overrides, and the groups' choices."""
    told: Any = OmegaConf.to_container(cfg.hydra)
    overrides = {kind: told["overrides"][kind] for kind in ("hydra", "task")}
    with open_dict(cfg):
        del cfg["hydra"]
        cfg["hydra"] = {"overrides": overrides, "runtime": {"choices": told["runtime"]["choices"]}}
    return cfg


def prepare_hydra(overrides: Sequence[str]) -> None:
    """Register the schema, tlab's resolvers, and every backbone named in `overrides` without a YAML.

    Raises:
        UserError: A group's choice is not a name.
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
            named = ", ".join(choice_names(places, override.key_or_group))
            raise UserError(f"{override.input_line} names no choice of the group; there are {named}")
        if override.key_or_group in ONE_CHOICE and isinstance(listed := override.value(), list) and len(listed) > 1:
            each = [f"{override.key_or_group}={value}" for value in listed]
            several = f"{override.key_or_group}={','.join(map(str, listed))}"
            raise UserError(
                f"{override.input_line} names {len(listed)} choices of a group that takes one; give {each[0]}, or "
                f"-m {several} for a run with each"
            )
    names, asked = choice_names(places, "backbone"), named_choices("backbone", overrides)
    there = {bare(name): name for name in names}
    others = sorted({*asked}.difference(names))
    if respelled := {name: there[bare(name)] for name in others if bare(name) in there}:
        no_choice = f"backbone={','.join(respelled)} is not a choice of the group backbone"
        raise UserError(
            f"{no_choice}, did you mean backbone={','.join(respelled.get(name, name) for name in asked)}"
        )
    for name in others:
        if re.fullmatch(r"[^\W_][\w.-]*", name):  # another torchvision model; a general rule finds its stages
            ConfigStore.instance().store(
                group="backbone", name=name, node={"defaults": ["torchvision"], "name": name}
            )


def user_conf_dirs(arguments: Sequence[str]) -> list[Path]:
    """Return the folders that `--config-dir` and `hydra.searchpath` add to the YAML files."""
    flags = re.findall(r"^(?:--config-dir|-cd)[=\n](.+)$", "\n".join(arguments), flags=re.MULTILINE)
    lists = [override.value() for override in of_keys(["hydra.searchpath"], arguments)]
    paths = [str(path).removeprefix("file://") for paths in lists if isinstance(paths, list) for path in paths]
    return [Path(path) for path in (*flags, *paths) if "://" not in path]  # packages (`pkg://`) are left out


def config_dirs(arguments: Sequence[str]) -> list[str]:
    """Return the arguments that name more folders of YAML files: `--config-dir DIR`, `hydra.searchpath=[...]`."""
    found: list[str] = []
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        if argument in CONFIG_DIR:
            found = [argument, following, *found]  # flags before overrides, as Hydra takes them
        elif argument.startswith(tuple(f"{flag}=" for flag in CONFIG_DIR)):
            found = [argument, *found]
        elif argument.lstrip("+").startswith("hydra.searchpath="):
            found.append(argument)
    return found


def groups(places: Sequence[Path]) -> set[str]:
    """Return the names of the configuration groups: the folders with YAML files."""
    return {folder.name for place in places for folder in place.glob("[!.]*/")}


def choice_names(places: Sequence[Path], group: str) -> list[str]:
    """Return the choices of a group, sorted."""
    files = [file for place in places for file in (place / group).glob("*.yaml")]
    return sorted(file.stem for file in files if not file.name.startswith("_"))


def choices(places: Sequence[Path], named: Sequence[str] = ()) -> str:
    """Return the groups and their choices for --help, a line each; by default those of a training run."""
    lines = []
    for group in named or sorted(groups(places) - NO_GROUPS_OF_A_RUN):
        names = " ".join(choice_names(places, group))
        lines += textwrap.wrap(f"{group:<11} {names}", 96, initial_indent="  ", subsequent_indent=" " * 14)
    return "\n".join(lines)


def key_lines(listed: str = "", *, _root_: DictConfig) -> str:
    """Return keys of a command with their values and help texts, for --help.

    Args:
        listed: Keys as typed (`data.root=DIR`), separated by spaces; "": all.
        _root_: The command's configuration.
    """
    declared = schema.keys(schema.COMMANDS[_root_.hydra.help.app_name.removeprefix("tlab.")])
    unresolved = flat(OmegaConf.to_container(_root_, resolve=False))
    lines = []
    for name in listed.split() or [name for name, each in declared.items() if each.metadata["help"]]:
        key = name.partition("=")[0].removesuffix(".KEY")
        choices = list(map(typed, declared[key].metadata["choices"]))
        named = f" ({', '.join(choices[:-1])} or {choices[-1]})" if choices else ""
        value = OmegaConf.select(_root_, key, default="-", throw_on_resolution_failure=False)
        shown = ("..." if value else "{}") if isinstance(value, DictConfig) else typed(value)
        if re.fullmatch(r"\$\{\w+\}", raw := str(unresolved.get(key))):
            shown = raw  # it follows another key
        start = f"  {name:<37} {shown:<9} "
        lines += textwrap.wrap(f"{start}{declared[key].metadata['help']}{named}", 120, subsequent_indent=" " * 50)
    return "\n".join(lines).replace("$", "$$")  # Hydra treats the page as a string.Template


def list_groups_once() -> None:
    """Keep Hydra from listing all groups for --help, in two seconds: tlab's pages have lists of their own."""
    Hydra.format_config_groups = lambda *_: ""  # type: ignore[method-assign]


def keep_own_presets() -> None:
    """Drop the plugins' configurations that have the names of tlab's presets: Hydra would merge the two."""
    Plugins.instance()  # imports the plugins, which then register
    registered = ConfigStore.instance().repo["hydra"].get("launcher", {})
    for name in ("submitit_slurm", "ray"):
        registered.pop(f"{name}.yaml", None)


def ignore_schema_warnings() -> None:
    """Silence Hydra's warning that conf/hydra/launcher is validated against the launchers' schemas, as intended."""
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")
