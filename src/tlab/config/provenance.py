"""The overrides and choices from which a configuration was composed, and copies of it as plain data."""

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from tlab.config.diff import AUTO, DECIDED_BY_RUNS, flat
from tlab.config.digest import is_commands_own
from tlab.config.hydra import is_named_by_time
from tlab.config.overrides import SECRETS, as_override, key_and_value
from tlab.config.safe_loading import reaches_out
from tlab.config.unused_keys import Run, without_unused
from tlab.core.text import shell_command

RESOLVER = re.compile(r"\$\{([\w.]+):")
OWN_RESOLVERS = ("run_dir", "sweep")  # keys that conf/ itself gives by resolvers


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain data, with interpolations, so that a key can still be changed.

    Paths are made absolute: the run may be evaluated from another folder. What asks a resolver (`${oc.env:SEED}`)
    is resolved: it may answer otherwise there. Loggers and callbacks keep theirs, which may stand for secrets.
    """
    config = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(config, dict)
    for key, value in flat(config).items():
        if reaches_out(value) and not key.startswith((*SECRETS, *OWN_RESOLVERS)):
            *parents, name = key.split(".")
            reduce(getitem, parents, config)[name] = OmegaConf.select(cfg, key)
    for group, key in (("data", "root"), ("backbone", "weights")):
        if (value := cfg[group][key]) is not None and Path(value).expanduser().exists():
            typed = config[group][key]  # `runs/seed=${seed}` stays one setting of several seeds
            place = value if typed.startswith("$") else typed
            config[group][key] = str(Path(place).expanduser().absolute())
    for name, root in (cfg.data.get("tests") or {}).items():
        config["data"]["tests"][name] = str(Path(root).expanduser().absolute())
    return {**config, "run_dir": cfg.run_dir, "sweep": str(cfg.sweep)}


@dataclass(frozen=True)
class Origin:
    """What a run's configuration was composed from.

    Attributes:
        overrides: Overrides as on the command line, without the run's directory; none for a baseline, and where
            they are not known.
        choices: Choice of each configuration group (`backbone` -> `vgg16`); empty where they are not known.
        command: Arguments of `tlab.train` that repeat a run made in Python, or by a search; None for any other.
    """

    overrides: list[str]
    choices: dict[str, str | None]
    command: str | None = None


def origin(cfg: DictConfig) -> Origin:
    """Return what a configuration was composed from: its node `hydra` tells, or the command, if it is its own."""
    if "hydra" in cfg:
        told: Any = OmegaConf.to_container(cfg.hydra)
        given, ours = told["overrides"]["task"], told["overrides"]["hydra"]
        overrides = [each for each in given if key_and_value(each)[0] != "run_dir"]
        chosen = len(overrides) < len(given) or not is_named_by_time(cfg.run_dir)
        place = [as_override("hydra.run.dir", cfg.run_dir)] if chosen else []
        words = [*without_unused(overrides, Run(cfg, alone=True)), *ours, *place]
        return Origin(overrides, _of_runs(told["runtime"]["choices"]), shell_command(words))
    if is_commands_own(cfg):
        return Origin(command_overrides(), _of_runs(HydraConfig.get().runtime.choices))
    return Origin([], {})


def command_overrides() -> list[str]:
    """Return the command line's overrides, as typed; none outside a command."""
    return _unresolved(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _unresolved(overrides: Any) -> list[str]:
    """Return a list of Hydra's as it is, `${oc.env:SECRET}` included."""
    return list(OmegaConf.to_container(overrides))  # type: ignore[arg-type]


def _of_runs(choices: Mapping[str, str | None]) -> dict[str, str | None]:
    return {group: choices[group] for group in sorted(choices) if not group.startswith("hydra/")}


def without_origin(cfg: DictConfig) -> DictConfig:
    """Return the configuration without the node `hydra`."""
    if "hydra" not in cfg:
        return cfg
    cfg = copy.deepcopy(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def with_later_changes(cfg: DictConfig, compose: Callable[[Sequence[str]], DictConfig]) -> DictConfig:
    """Return the configuration with overrides for the values that were set in Python after it was composed.

    Args:
        cfg: Configuration with a node `hydra`.
        compose: Function of overrides that has composed it.
    """
    given = _unresolved(cfg.hydra.overrides.task)
    own = _unresolved(cfg.hydra.overrides.hydra)  # which may say where the files of choices are
    later = list(_changes(_settings(compose([*own, *given])), _settings(cfg)))
    if not later:
        return cfg
    keys = {key_and_value(each)[0] for each in later}
    return with_value(
        cfg, "hydra.overrides.task", [each for each in given if key_and_value(each)[0] not in keys] + later
    )


def _settings(cfg: DictConfig) -> dict[str, Any]:
    settings: Any = OmegaConf.to_container(cfg)
    return {key: value for key, value in settings.items() if key not in ("hydra", "run_dir")}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield overrides that turn plain data into other such data."""
    for key, value in after.items():
        place = f"{above}{key}"
        if key not in before:
            yield as_override(f"++{place}", value)
        elif isinstance(value, dict) and isinstance(before[key], dict):
            yield from _changes(before[key], value, f"{place}.")
        elif value != before[key]:
            yield as_override(place, value)
    yield from (f"~{above}{key}" for key in before if key not in after)


def with_value(cfg: DictConfig, key: str, value: Any) -> DictConfig:
    """Return a copy of the configuration with another value of a key."""
    cfg = copy.deepcopy(cfg)
    with read_write(cfg), open_dict(cfg):
        OmegaConf.update(cfg, key, value)
    return cfg


def as_decided(cfg: DictConfig, record: Mapping[str, Any]) -> DictConfig:
    """Return the configuration with what a run has decided where it says `auto`.

    Args:
        cfg: Configuration with which the run goes on.
        record: The run's `run.json`.
    """
    config = flat(record.get("config", {}))
    for key, formerly in DECIDED_BY_RUNS.items():
        if OmegaConf.select(cfg, key) == AUTO:
            cfg = with_value(cfg, key, config.get(key, formerly))
    return cfg


def with_decisions(config: Mapping[str, Any], cfg: DictConfig) -> dict[str, Any]:
    """Return plain data of a configuration with what `cfg` says in the place of `auto`."""
    decided = copy.deepcopy(dict(config))
    for key in DECIDED_BY_RUNS:
        group, name = key.split(".")
        if decided[group].get(name) == AUTO:
            decided[group][name] = OmegaConf.select(cfg, key)
    return decided


def resolved(cfg: DictConfig) -> DictConfig:
    """Return a copy without interpolations: Hydra's resolvers are missing in other processes.

    What loggers and callbacks ask of the environment, which may be secrets, is still asked there.
    """
    copied = copy.deepcopy(cfg)
    OmegaConf.resolve(copied)
    for key, value in flat(OmegaConf.to_container(cfg, resolve=False)).items():
        if key.startswith(SECRETS) and {*RESOLVER.findall(str(value))} == {"oc.env"}:
            OmegaConf.update(copied, key, value)
    return copied
