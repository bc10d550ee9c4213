"""Mistakes in values that can be told before torch is imported."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tlab.errors import UserError

CHOICES: dict[str, Collection[str]] = {
    "data.normalize": ("backbone", "dataset", "none"),
    "data.resize": ("crop", "pad"),
    "data.unreadable": ("skip", "error"),
    "trainer.precision": ("auto", "32-true", "bf16-mixed", "16-mixed"),
    "trainer.accelerator": ("auto", "cpu", "gpu", "cuda", "mps"),
    "checkpoint.mode": ("min", "max"),
    "resume": ("auto", "never"),
}
AT_LEAST: dict[str, float] = {
    "data.image_size": 1,
    "data.batch_size": 1,
    "data.num_workers": 0,
    "trainer.max_epochs": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.devices": 1,
    "optimizer.lr": 0,
    "optimizer.weight_decay": 0,
    "seed": 0,
}


def check(cfg: DictConfig) -> None:
    """Refuse values that no run can have.

    Raises:
        UserError: Names the first key that is wrong, and what it may be.
    """
    if OmegaConf.is_missing(cfg.data, "root"):
        raise UserError(
            "data.root is not set; say where the images are with data.root=DIR, "
            "or take the built-in sample with data=demo"
        )
    if OmegaConf.is_missing(cfg.backbone, "name"):
        raise UserError("backbone.name is not set; give a model's name with backbone.name=NAME")
    if cfg.data.root is not None and not Path(cfg.data.root).expanduser().exists():
        raise UserError(
            f"data.root={cfg.data.root} does not exist; check the path (it is relative to {Path.cwd()})"
        )
    for key, options in CHOICES.items():
        if (value := OmegaConf.select(cfg, key)) not in options:
            raise UserError(f"{key}={value} is not one of {', '.join(options)}")
    for key, least in AT_LEAST.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and not _is_number(value):
            raise UserError(f"{key}={value} is not a number")
        if value is not None and value < least:
            raise UserError(f"{key}={value} is too small; give {least:g} or more")
    for key in ("data.val_fraction", "data.test_fraction", "loss.label_smoothing"):
        if not 0 <= OmegaConf.select(cfg, key) < 1:
            raise UserError(f"{key}={OmegaConf.select(cfg, key)} must lie in 0..1")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
