"""Which differences between two configurations can change a result."""

from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tlab.config.safe_loading import inert
from tlab.config.schema import REMOVED_KEYS, TrainConfig
from tlab.config.targets import renewed

# Keys that may change when a run is resumed: the result is bitwise the same with any value.
WITHOUT_EFFECT = (
    *("data.num_workers", "data.module.num_workers", "data.store", "data.module.store"),
    *("checkpoint.every_n_steps", "debug", "dashboards.", "find_lr", "logger."),
    *("resume", "run_dir", "sweep", "baseline.", "advice"),
    *("data.nested", "data.source.nested", "data.module.source.nested"),
    *("data.check_seconds", "data.module.check_seconds"),  # a run keeps its images whatever a later check decodes
)

# Locations of the images, which are identified by content instead (`tlab.runs.data_check`).
PLACES = ("data.root", "data.source.root", "data.module.source.root")

# Default of another key, in which the difference shows: lr_scale of a phase
DEFAULTS_OF_KEYS = ("backbone.unfrozen_lr_scale",)

# What is done when a run is over, so a finished run may be asked for it besides
AFTERWARDS = ("data.tests.", "refit")

AUTO = "auto"
# Keys that a run records as decided where they were `auto` -> what was done before there was such a key
DECIDED_BY_RUNS = {"head.solver": "sgd", "finetune.batchnorm": "pretrained"}

# Key -> (old default, default that lets tlab choose): an old run is resumed as it began.
CHOSEN_SINCE: dict[str, tuple[Any, Any]] = {"trainer.compile": (False, "auto")}
CHOSEN_SINCE |= {"head.solver": (None, "sgd")}
CHOSEN_SINCE |= {f"data.{node}bits": (None, "auto") for node in ("", "module.")}
CHOSEN_SINCE |= {f"data.{node}max_megapixels": (None, 179.0) for node in ("", "module.")}


def without_effect(key: str) -> bool:
    """Tell whether a key, or a group's choice, cannot change a result."""
    return key.startswith(WITHOUT_EFFECT) or f"{key}." in WITHOUT_EFFECT


def differences(old: dict[str, Any], new: dict[str, Any]) -> set[str]:
    """Return the keys whose values differ, except those that cannot change a result and the images' locations.

    A key missing from the old configuration did not exist when that run was made. It is no difference if its value
    is null, false or the schema's default, which stand for what tlab did before the key existed.
    """
    before, after = (
        flat(OmegaConf.to_container(OmegaConf.create(inert(renewed(config))), resolve=True))
        for config in (old, new)
    )
    return {
        key
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key)
        and not (key == "backbone.weights" and _same_file(before.get(key), after.get(key)))
        and not key.startswith(WITHOUT_EFFECT)
        and key not in (*PLACES, *DEFAULTS_OF_KEYS)
        and not key.startswith(AFTERWARDS)
        and (before.get(key), after.get(key)) != CHOSEN_SINCE.get(key)
        and not (key in DECIDED_BY_RUNS and AUTO in (before.get(key), after.get(key)))  # a run keeps its own
        and (key in before or not _is_neutral(key, after[key]))
        and "$ {" not in str(before.get(key))  # an earlier version kept what asks a resolver as it was typed
    }


def _same_file(old: Any, new: Any) -> bool:
    """Tell whether two values name one file; one that is gone stays as typed (`tlab.config.provenance.plain`)."""
    return bool(old and new) and Path(old).expanduser().absolute() == Path(new).expanduser().absolute()


def _is_neutral(key: str, value: Any) -> bool:
    """Tell whether a new key's value changes nothing compared with the time before the key existed.

    In a mapping that is empty by default (`backbone.kwargs`) no value is neutral.
    """
    node: Any = TrainConfig
    default: Any = None
    for part in key.split("."):
        known = {each.name: each for each in fields(node)} if is_dataclass(node) else {}
        if part not in known:
            return (value is None or value is False) and default is not MISSING
        node, default = known[part].type, known[part].default
    return value is None or value is False or value == default


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration as a flat one with dotted keys (`optimizer.lr`), without removed keys."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" not in REMOVED_KEYS:
            leaves[f"{prefix}{key}"] = value
    return leaves
