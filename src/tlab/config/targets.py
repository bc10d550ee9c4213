"""Present names of each `_target_` in configurations that an earlier version wrote."""

import copy
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

# Old module -> new module, or old full name -> new full name where the name itself changed.
MOVED = {
    "tlab.dashboards.board": "tlab.dashboards.tensorboard",
    "tlab.data.color": "tlab.data.augment.color",
    "tlab.data.dataset.Mixing": "tlab.data.augment.mixup.Mixing",
    "tlab.data.demo": "tlab.data.sources.demo.index",
    "tlab.data.index": "tlab.data.sources.folder",
    "tlab.data.mixing": "tlab.data.augment.mixup",
    "tlab.data.table": "tlab.data.sources.csv_table",
    "tlab.data.torchvision_sets": "tlab.data.sources.torchvision_sets",
    "tlab.data.transforms": "tlab.data.augment.evaluation",
    "tlab.data.transforms.Sometimes": "tlab.data.augment.compose.RandomApply",
    "tlab.data.warp": "tlab.data.augment.geometry",
}


def renewed(value: Any) -> Any:
    """Return a copy of nested plain data in which each `_target_` has its present name."""
    if isinstance(value, dict):
        return {key: _present(inner) if key == "_target_" else renewed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [renewed(inner) for inner in value]
    return value


def with_present_targets(cfg: DictConfig) -> DictConfig:
    """Return the configuration with present names; a user's YAML file may have those of an earlier version."""
    targets = _targets(OmegaConf.to_container(cfg, resolve=False), "")
    changed = {key: _present(target) for key, target in targets if _present(target) != target}
    if not changed:
        return cfg
    cfg = copy.deepcopy(cfg)
    for key, target in changed.items():
        OmegaConf.update(cfg, key, target)
    return cfg


def _targets(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the key of each `_target_` in nested mappings and lists, and what it names."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        if key == "_target_" and isinstance(value, str):
            yield f"{prefix}{key}", value
        yield from _targets(value, f"{prefix}{key}.")


def _present(target: Any) -> Any:
    if not isinstance(target, str):
        return target
    module, _, name = target.rpartition(".")
    return MOVED.get(target) or (f"{MOVED[module]}.{name}" if module in MOVED else target)
