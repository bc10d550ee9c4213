"""The command line that train, evaluate and predict share: Hydra, people's help, mistakes in one sentence.

Nothing here imports torch, so `--help`, `--cfg job` and tab completion answer at once.
"""

import difflib
import functools
import logging
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tlab import schema
from tlab.errors import UserError

LONGEST_RUN_NAME = 120  # characters; file systems end at 255 bytes a name


def conf_dir() -> Path:
    """Return the folder of the YAML files: inside an installed wheel, or at the top of a checkout."""
    installed = Path(__file__).parent / "conf"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "conf"


def run_command(task: Callable[[DictConfig], Any], config_name: str) -> None:
    """Compose `config_name` from the command line and hand it to `task`.

    Exits with code 2 and one sentence on a mistake of the user; `debug=true` shows its traceback instead.
    """
    if sys.argv[1:] in (["--shell-completion", "install=bash"], ["--shell-completion", "install=zsh"]):
        print(Path(__file__).with_name("completion.bash").read_text(encoding="utf-8"))
        return
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises instead of printing; `sentence` prints
    for flag in ("-m", "--multirun"):  # argparse takes no override after a flag that stands among them
        if flag in sys.argv[1:]:
            sys.argv.remove(flag)
            sys.argv.insert(1, "--multirun")
    prepare_hydra(sys.argv[1:])

    @functools.wraps(task)
    def guarded(cfg: DictConfig) -> Any:
        with mistakes_in_one_sentence():
            return task(cfg)

    with mistakes_in_one_sentence():
        hydra.main(config_path=str(conf_dir()), config_name=config_name, version_base="1.3")(guarded)()


@contextmanager
def mistakes_in_one_sentence() -> Iterator[None]:
    """End the process with code 2 and one sentence on a mistake of the user, unless `debug=true` is given."""
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if not _is_mistake(error) or any(argument.lower() == "debug=true" for argument in sys.argv[1:]):
            raise
        fail(sentence(error))


def compose(overrides: Sequence[str], config_name: str = "train") -> DictConfig:
    """Return the configuration that the command line would compose from `overrides`.

    Outside a command (a notebook, a test) `overrides` must name the run's directory: `run_dir=DIR`.
    """
    prepare_hydra(overrides)
    if GlobalHydra.instance().is_initialized():
        return hydra.compose(config_name, list(overrides))
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose(config_name, list(overrides))


def quiet() -> None:
    """Silence what Lightning says about things that tlab has decided on purpose."""
    import lightning.pytorch  # sets its own level when imported

    logging.getLogger(lightning.pytorch.__name__).setLevel(logging.WARNING)
    for message in (
        r".*isinstance\(treespec, LeafSpec\)",  # Lightning 2.6 with torch 2.15
        r".*does not have many workers",
        r".*is smaller than the logging interval",
        r".*`ckpt_path`, callbacks used to create the checkpoint",
        r"Checkpoint directory .* exists and is not empty",  # a run that goes on
    ):
        warnings.filterwarnings("ignore", message=message)


def fail(message: str) -> NoReturn:
    """Print one sentence to standard error and exit with code 2."""
    print(f"tlab: {message}", file=sys.stderr)
    sys.exit(2)


def prepare_hydra(overrides: Sequence[str]) -> None:
    """Register the schema, the resolver of run names, and every backbone named in `overrides` without a YAML."""
    schema.register()
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("choices", choices, replace=True)
    places = [conf_dir(), *user_conf_dirs(overrides)]
    known = {file.stem for place in places for file in (place / "backbone").glob("*.yaml")}
    for override in overrides:
        key, _, value = override.partition("=")
        if key != "backbone":
            continue
        for name in re.findall(r"[\w.]+", value):
            if name not in known:  # any other torchvision model: the general rule finds its stages
                ConfigStore.instance().store(
                    group="backbone", name=name, node={"defaults": ["torchvision"], "name": name}
                )


def user_conf_dirs(arguments: Sequence[str]) -> list[Path]:
    """Return the folders that `--config-dir` and `hydra.searchpath` add to the YAML files."""
    text = "\n".join(arguments)
    flags = re.findall(r"^(?:--config-dir|-cd)[=\n](.+)$", text, flags=re.MULTILINE)
    paths = re.findall(r"^\+{0,2}hydra\.searchpath=(.+)$", text, flags=re.MULTILINE)
    files = [part for path in paths for part in re.findall(r"file://([^\],'\"]+)", path)]
    return [Path(path) for path in (*flags, *files)]


def choices() -> str:
    """Return the configuration groups and their choices, a line each, for --help."""
    lines = []
    for group in sorted(folder for folder in conf_dir().iterdir() if folder.is_dir() and folder.name != "hydra"):
        names = sorted(file.stem for file in group.glob("*.yaml") if not file.name.startswith("_"))
        lines += textwrap.wrap(
            f"{group.name:<11} {' '.join(names)}", 96, initial_indent="  ", subsequent_indent=" " * 14
        )
    return "\n".join(lines)


def run_name(overrides: Sequence[str]) -> str:
    """Return a directory name for one run of a sweep: its overrides without the seed and the data's place.

    Values that are paths are shortened to their last part, so that the name has no separator in it.
    """
    parts = []
    for override in sorted(overrides):
        key, _, value = override.lstrip("+~").partition("=")
        if key in {"seed", "data.root", "sweep", "debug", "resume"}:
            continue
        value = value.strip("'\"").rstrip("/").rsplit("/", 1)[-1]
        parts.append(f"{key}={value}")
    name = re.sub(r"[^\w.=,+-]+", "_", ",".join(parts)) or "default"
    if len(name) > LONGEST_RUN_NAME:
        import hashlib

        name = f"{name[: LONGEST_RUN_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name


def sentence(error: BaseException) -> str:
    """Return what went wrong and the way out, as one sentence."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, InstantiationException):
        return _instantiation_sentence(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        options = [option for option in error.options or [] if not option.startswith("_")]
        if group:
            return f"{group}={choice} is not a choice of the group {group}{_suggest(choice, options)}"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    text = str(cause)
    key = getattr(cause, "full_key", None) or _search(r"full_key: (\S+)", text) or _search(r"'(.+?)'", text)
    where = _search(r"^In '(.+?)'", str(error))
    place = f" (in conf/{where}.yaml)" if where else ""
    if _search(r"(is not in struct|not in '\w+')", text):
        parent = getattr(cause, "parent_node", None)
        options = [str(k) for k in parent if not str(k).startswith("_")] if isinstance(parent, DictConfig) else []
        return f"{key} is not a key of the configuration{place}{_suggest(str(key).rsplit('.', 1)[-1], options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read; write KEY=VALUE, and quote a value with special characters"
    if value := _search(r"^(?:.*\n)?(Value .+? could not be converted to \w+)", text):
        return f"{key} has the wrong type{place}: {value[0].lower() + value[1:]}"
    if "Missing mandatory value" in text or "MissingMandatoryValue" in type(cause).__name__:
        return f"{key} is not set; give it on the command line as {key}=VALUE"
    return " ".join(text.split("\n")[0].split()) + f"{place}; see --help"


def _suggest(word: str, options: Sequence[str]) -> str:
    """Return the closest of the options, then all of them."""
    if not options:
        return "; see --help or --cfg job for what there is"
    close = difflib.get_close_matches(word, options, n=1)
    near = f", did you mean {close[0]}" if close else ""
    return f"{near}; there are {', '.join(sorted(options))}"


def _search(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text, flags=re.MULTILINE)
    return match.group(1) if match else None


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_mistake(error: BaseException) -> bool:
    """A node that could not be built is the user's mistake only if its arguments were refused."""
    return not isinstance(error, InstantiationException) or isinstance(
        _root_cause(error), (UserError, TypeError, ValueError, ImportError, AttributeError)
    )


def _instantiation_sentence(error: InstantiationException) -> str:
    cause = _root_cause(error)
    if isinstance(cause, UserError):
        return str(cause)
    key = _search(r"full_key: (\S+)", str(error)) or "the configuration"
    what = str(cause).strip().split("\n")[0] or type(cause).__name__
    return f"{key} could not be built ({what}); correct its keys or its _target_"
