"""Parsing of command-line overrides, and names derived from them."""

import glob
import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import islice
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
    Sweep,
    ValueType,
)
from hydra.errors import HydraException
from omegaconf import ListConfig

from tlab.config import schema
from tlab.config.hydra_syntax import PART, in_home, read, read_any_letters, readable
from tlab.core.errors import UserError
from tlab.core.text import as_text, shell_word

LONGEST_RUN_NAME = 120  # characters; file systems allow 255 bytes a name
MULTIRUN = ("-m", "--multirun")
# Keys whose values may stand for secrets: `${oc.env:TOKEN}` is asked where a run needs it, and kept as it is typed
SECRETS = ("logger.", "callbacks.")
CONFIG_DIR = ("--config-dir", "-cd")
WITH_VALUE = (*CONFIG_DIR, "--config-name", "-cn", "--config-path", "-cp", "--cfg", "-c", "--package", "-p")
NEVER_IN_NAMES = {"seed", "sweep", "debug", "resume", "refit", "advice"}
NEVER_SWEPT = {  # one for all runs
    *("hydra.run.dir", "hydra.sweep.dir", "hydra.searchpath", "sweep", "study", "dir", "output", "advice"),
}
MAY_BE_EMPTY = {"data.images"}  # paths relative to another one


def tidy(arguments: Sequence[str], command: str = "train", sweep: bool | None = None) -> list[str]:
    """Return the arguments in a form that Hydra can parse; tidy ones stay as they are.

    Flags (`-m`, `--config-dir DIR`) may stand anywhere, and lines may end as on Windows. A path is taken as typed,
    whatever its characters, with the home directory for `~`. In other values what Hydra cannot read is quoted. One
    text where a list belongs is a list of it.

    Args:
        arguments: Arguments as typed.
        command: Entry point that takes them, which has its own keys.
        sweep: Whether commas separate the values of a sweep; None: with `-m`.

    Raises:
        UserError: A setting stands behind dashes, or a path is empty, which would be the current folder.
    """
    read_any_letters()
    paths = schema.path_keys(command)
    sweep = any(flag in arguments for flag in MULTIRUN) if sweep is None else sweep
    flags: list[str] = []  # Hydra takes no overrides on both sides of one
    tidied = []
    left = iter([argument.removesuffix("\r") for argument in arguments])
    for argument in left:
        key, equals, value = argument.partition("=")
        if key.startswith("-"):
            if key.startswith("--") and ("." in key or key[2:] in schema.keys(schema.COMMANDS[command])):
                meant = shell_word(f"{key[2:]}={value or next(left, 'VALUE')}")
                raise UserError(f"{argument} stands behind dashes, which settings do not; give {meant}")
            if argument not in MULTIRUN or not {*MULTIRUN} & {*flags}:
                flags.append(
                    f"{key}={in_home(value)}" if equals else key
                )  # bash leaves the ~ in --config-dir=~/mine
            if key in WITH_VALUE and not equals:
                flags += [*islice(left, 1)]
            continue
        if equals and not key.startswith("~"):
            name = key.lstrip("+")
            path = name in paths or paths.get(name.rpartition(".")[0], False)  # or one of a mapping of them
            value = value if path else as_text(value)
            if path and value.strip() in ("", "''", '""') and name not in MAY_BE_EMPTY:
                raise UserError(
                    f"{name}= is empty, as where a variable of the shell is not set; give a path, or leave it out"
                )
            several = sweep and name not in NEVER_SWEPT
            value = readable(value, path=path, container=paths.get(name, not path), sweep=several)
            if name in schema.list_keys(command) and not value.startswith(("[", "$")):
                value = ",".join(f"[{each}]" for each in (PART.findall(value) if several else [value]))
            argument = f"{key}={value}"
        tidied.append(argument)
    return [*flags, *tidied]


def as_override(key: str, value: Any) -> str:
    """Return the override that sets `key` to a text of any characters, a path, a number, a list or a mapping."""
    return f"{key}={_written(value)}"


def shell_argument(key: str, value: Any) -> str:
    """Return such an override as a word of bash: `'data.exclude=["Corn_(maize)___blight"]'`."""
    return shell_word(as_override(key, value))


def exclude_argument(names: Iterable[str]) -> str:
    """Return the argument, in shell quoting, that leaves out these files and folders: names, not glob patterns."""
    return shell_argument("data.exclude", [glob.escape(name) for name in names])


def _written(value: Any) -> str:
    """Return a value as the command line takes it; a text is in quotes unless it can be nothing else."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_written(each)}' for key, each in value.items())}}}"
    if isinstance(value, list | tuple | ListConfig):
        return f"[{', '.join(map(_written, value))}]"
    if value is None or isinstance(value, bool | int | float):
        return "null" if value is None else str(value).lower()
    text = str(value)
    plain = re.fullmatch(r"[\w./-]*", text) and read(text) == text
    return text if plain else QuotedString(text, Quote.double).with_quotes()


@cache
def key_and_value(override: str) -> tuple[str, str]:
    """Return the key without `+` or `~`, and the value as typed, without quotes."""
    key, _, value = override.lstrip("+~").partition("=")
    value = value.strip()
    if value.startswith(("'", '"')):
        with suppress(HydraException):  # reported when the override is composed
            one = OverridesParser.create().parse_override(f"{key}={value}")
            if one.value_type == ValueType.ELEMENT:
                return key, str(one.value())
    return key, value


def of_keys(keys: Collection[str], arguments: Sequence[str]) -> Iterator[Override]:
    """Yield the overrides of these keys or groups; what Hydra cannot parse is skipped, since it will refuse it."""
    parser = OverridesParser.create()
    for argument in arguments:
        if key_and_value(argument)[0].partition("@")[0] in keys:
            with suppress(HydraException):
                yield parser.parse_override(argument)


def values(override: Override) -> list[Any]:
    """Return the value of an override, or each value of a sweep over choices; a glob is returned as it is."""
    value = override.value()
    listed = value.list if isinstance(value, ChoiceSweep) else [value]
    return [one.text if isinstance(one, QuotedString) else one for one in listed]


def names_choices(override: Override) -> bool:
    """Tell whether the value can name choices of a group, which a number or null cannot."""
    none = float | int | RangeSweep | IntervalSweep
    return override.is_delete() or not any(one is None or isinstance(one, none) for one in values(override))


def named_choices(group: str, arguments: Sequence[str]) -> list[str]:
    """Return the choices of a group that the arguments name explicitly, each once; a glob names none."""
    named = [value for override in of_keys([group], arguments) for value in values(override)]
    return [*dict.fromkeys(name.removesuffix(".yaml") for name in named if isinstance(name, str))]


def read_sweep(overrides: Sequence[str], loader: ConfigLoader) -> list[Override]:
    """Return the overrides of a sweep as Hydra parses them; globs exclude shared files such as `_common`.

    Args:
        overrides: Overrides as on the command line.
        loader: Loader that lists the choices of a group.

    Raises:
        HydraException: An override cannot be parsed.
        UserError: A glob matches nothing, or a sweep is nested among other values.
    """
    read = OverridesParser.create(loader).parse_overrides(list(overrides))
    for one in read:
        value = one.value()
        if isinstance(value, Glob):
            value.exclude.append("_*")
            if not [*one.sweep_iterator()]:
                there = [name for name in loader.get_group_options(one.key_or_group) if name[0] != "_"]
                raise UserError(f"{one.input_line} finds nothing; there are {', '.join(there) or 'no choices'}")
        elif isinstance(value, ChoiceSweep) and any(isinstance(each, Glob | Sweep) for each in value.list):
            raise UserError(
                f"{one.input_line} has a sweep among its values; write choice(a,b) or glob([a*,b]) alone"
            )
    return read


def given_keys(overrides: Iterable[str]) -> Iterator[str]:
    """Yield the keys and groups that overrides set, each once; also those inside `features={views: 8}`."""
    keys: dict[str, None] = {}
    for override in overrides:
        if override.startswith("~"):
            continue
        name, value = key_and_value(override)
        key = name.rpartition("@")[2]  # `aug@finetune.phases.head.aug=none` sets the latter
        keys[key] = None
        if "{" in value:
            for each in values(OverridesParser.create().parse_override(override)):
                keys |= dict.fromkeys(f"{key}.{below}" for below in _below(each))
    yield from keys


def _below(value: Any) -> Iterator[str]:
    """Yield the dotted keys of a nested dict."""
    for key, inner in value.items() if isinstance(value, dict) else []:
        yield str(key)
        yield from (f"{key}.{below}" for below in _below(inner))


def of_baseline(overrides: Sequence[str], changes: Sequence[str]) -> list[str]:
    """Return the overrides of a run's baseline: the run's own without its directory and advice, then the changes.

    If the baseline has another fine-tuning plan, keys of the run's plan are left out, which it may not have.
    """
    own = [override for override in overrides if key_and_value(override)[0] not in ("run_dir", "advice")]
    if "finetune" in dict(map(key_and_value, changes)):
        own = [override for override in own if not key_and_value(override)[0].startswith("finetune.")]
    return [*own, *changes]


def run_name(overrides: Sequence[str]) -> str:
    """Return a directory name for one run of a sweep: its overrides without the seed, readable and without `/`.

    A path is shortened to its last part and four hex digits of its hash.
    """
    parts = []
    for override in sorted(overrides):
        key, value = key_and_value(override)
        if key in NEVER_IN_NAMES:
            continue
        last = value.rstrip("/").rsplit("/", 1)[-1]
        parts.append(f"{key}={value if last == value else f'{last}-{_hash(value)[:4]}'}")
    name = re.sub(r"[^\w.=,+-]+", "_", ",".join(parts)) or "default"
    if len(name) > LONGEST_RUN_NAME:
        name = f"{name[: LONGEST_RUN_NAME - 9]}-{_hash(name)[:8]}"
    return name


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
