"""Which settings make a run another run."""

from typing import Any

from omegaconf import OmegaConf

# Keys that may differ between the two halves of a run.
WITHOUT_EFFECT = (
    "checkpoint.every_n_steps",
    "data.num_workers",
    "data.module.num_workers",
    "debug",
    "dashboards.",
    "find_lr",
    "logger.",
    "resume",
    "run_dir",
    "sweep",
    "baseline.",
)


def without_effect(key: str) -> bool:
    """Tell whether a key, or the choice of a group, cannot change a result."""
    return key.startswith(WITHOUT_EFFECT) or f"{key}." in WITHOUT_EFFECT


def differences(old: dict[str, Any], new: dict[str, Any]) -> set[str]:
    """Return the keys whose values differ, leaving out those that cannot change a result."""
    before, after = (flat(OmegaConf.to_container(OmegaConf.create(config), resolve=True)) for config in (old, new))
    return {
        key
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key) and not key.startswith(WITHOUT_EFFECT)
    }


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration with dotted keys: `optimizer.lr`."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
