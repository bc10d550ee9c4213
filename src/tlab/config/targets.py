"""Present names of each `_target_` in configurations that an earlier version wrote."""

import copy
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tlab.core.nested import leaves, with_leaves

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
    return with_leaves(value, lambda key, leaf: _present(leaf) if key == "_target_" else leaf)


def with_present_targets(cfg: DictConfig) -> DictConfig:
    """Return the configuration with present names; a user's YAML file may have those of an earlier version."""
    every = [leaf for leaf in leaves(OmegaConf.to_container(cfg, resolve=False)) if leaf[0][-1] == "_target_"]
    changed = {".".join(place): _present(target) for place, target in every if _present(target) != target}
    if not changed:
        return cfg
    cfg = copy.deepcopy(cfg)
    for key, target in changed.items():
        OmegaConf.update(cfg, key, target)
    return cfg


def _present(target: Any) -> Any:
    if not isinstance(target, str):
        return target
    module, _, name = target.rpartition(".")
    return MOVED.get(target) or (f"{MOVED[module]}.{name}" if module in MOVED else target)
