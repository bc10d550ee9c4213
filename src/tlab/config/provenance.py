"""The overrides and choices from which a configuration was composed, and copies of it as plain data."""

import copy
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from tlab.config.diff import AUTO, DECIDED_BY_RUNS, flat
from tlab.config.digest import is_commands_own
from tlab.config.safe_loading import reaches_out

OWN_RESOLVERS = ("run_dir", "sweep")  # keys that conf/ itself gives by resolvers


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain data, with interpolations, so that a key can still be changed.

    Paths are made absolute: the run may be evaluated from another folder. What asks a resolver (`${oc.env:SEED}`)
    is resolved: it may answer otherwise there. Loggers and callbacks keep theirs, which may stand for secrets.
    """
    config = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(config, dict)
    for key, value in flat(config).items():
        if reaches_out(value) and not key.startswith(("logger.", "callbacks.", *OWN_RESOLVERS)):
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


def command_overrides() -> list[str]:
    """Return the command line's overrides; none outside a command."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def overrides(cfg: DictConfig) -> list[str]:
    """Return the command line's overrides; none for a baseline or outside a command."""
    return command_overrides() if is_commands_own(cfg) else []


def choices(cfg: DictConfig) -> dict[str, str | None]:
    """Return the choice of each configuration group (`backbone` -> `vgg16`); empty where `overrides` is."""
    chosen = HydraConfig.get().runtime.choices if is_commands_own(cfg) else {}
    return {group: chosen[group] for group in sorted(chosen) if not group.startswith("hydra/")}


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
    """Return a copy without interpolations: Hydra's resolvers are missing in other processes."""
    copied = copy.deepcopy(cfg)
    OmegaConf.resolve(copied)
    return copied
