"""Which settings make a run another run."""

from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from omegaconf import OmegaConf

from tlab.config.schema import GONE, TrainConfig
from tlab.config.targets import renewed
from tlab.config.trusted import inert

# Keys that may differ between the two halves of a run: with any value of theirs the result is the same, bit by bit.
WITHOUT_EFFECT = (
    "checkpoint.every_n_steps",
    "data.num_workers",
    "data.module.num_workers",
    "data.store",
    "data.module.store",
    "debug",
    "dashboards.",
    "find_lr",
    "logger.",
    "resume",
    "run_dir",
    "sweep",
    "baseline.",
)

# Where the images lie; which they are is told by their content (`tlab.runs.same_data`).
PLACES = ("data.root", "data.source.root", "data.module.source.root")

# Key -> what tlab did before it chose by itself, and the value that lets it choose; a run goes on as it began.
CHOSEN_SINCE = {"trainer.compile": (False, "auto")}


def without_effect(key: str) -> bool:
    """Tell whether a key, or the choice of a group, cannot change a result."""
    return key.startswith(WITHOUT_EFFECT) or f"{key}." in WITHOUT_EFFECT


def differences(old: dict[str, Any], new: dict[str, Any]) -> set[str]:
    """Return the keys whose values differ, leaving out those that cannot change a result, and where the images lie.

    A key that the old configuration does not have at all was not there when the run was made. It is no difference
    where its value is null, false or the schema's default: those stand for what tlab did before there was the key.
    """
    before, after = (
        flat(OmegaConf.to_container(OmegaConf.create(inert(renewed(config))), resolve=True))
        for config in (old, new)
    )
    return {
        key
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key)
        and not key.startswith(WITHOUT_EFFECT)
        and key not in PLACES
        and (before.get(key), after.get(key)) != CHOSEN_SINCE.get(key)
        and (key in before or not _is_neutral(key, after[key]))
    }


def _is_neutral(key: str, value: Any) -> bool:
    """Tell whether a new key's value leaves things as they were before there was the key.

    In a mapping that is empty by default (`backbone.kwargs`) each key says something, whatever its value.
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
    """Return a nested configuration with dotted keys, `optimizer.lr`, without those that tlab has no more."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" not in GONE:
            leaves[f"{prefix}{key}"] = value
    return leaves
