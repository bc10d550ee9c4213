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
CROSS_ENTROPY = "tlab.models.losses.CrossEntropy"


def renewed(value: Any) -> Any:
    """Return a copy of nested plain data with present names; a whole configuration also gets a `loss._target_`."""
    present = with_leaves(value, lambda key, leaf: _present(leaf) if key == "_target_" else leaf)
    if isinstance(present, dict) and isinstance(present.get("loss"), dict):  # there was one loss before `_target_`
        present["loss"] = {"_target_": CROSS_ENTROPY, **present["loss"]}
    return present


def with_present_targets(cfg: DictConfig) -> DictConfig:
    """Return the configuration with present names; a user's YAML file may have those of an earlier version."""
    present = cfg
    for place, target in leaves(OmegaConf.to_container(cfg, resolve=False)):
        if place[-1] == "_target_" and _present(target) != target:
            present = copy.deepcopy(cfg) if present is cfg else present
            OmegaConf.update(present, ".".join(place), _present(target))
    return present


def _present(target: Any) -> Any:
    if not isinstance(target, str):
        return target
    module, _, name = target.rpartition(".")
    return MOVED.get(target) or (f"{MOVED[module]}.{name}" if module in MOVED else target)
