"""Mistakes in values that can be told before torch is imported."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tlab.errors import UserError

Choices = Mapping[str, Sequence[str | bool | None]]
Bounds = Mapping[str, tuple[float, float]]

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
ANY = float("inf")
SMALLEST = 1e-12  # stands for "above 0"

TRAIN_CHOICES: Choices = {
    "data.normalize": ("backbone", "dataset", "none"),
    "data.resize": ("crop", "pad"),
    "data.store": ("auto", "on", "off"),
    "data.unreadable": ("skip", "error"),
    "trainer.precision": ("auto", *PRECISIONS),
    "trainer.accelerator": ACCELERATORS,
    "trainer.strategy": ("auto", "ddp"),
    "trainer.compile": ("auto", True, False),
    "features.cache": ("auto", "off"),
    "checkpoint.mode": (None, "min", "max"),
    "resume": ("auto", "never", "anyway"),
}
TRAIN_BOUNDS: Bounds = {
    "data.image_size": (2, ANY),
    "data.batch_size": (1, ANY),
    "data.num_workers": (0, ANY),
    "data.val_fraction": (0, 0.99),
    "data.test_fraction": (0, 0.99),
    "trainer.max_epochs": (1, ANY),
    "trainer.accumulate_grad_batches": (1, ANY),
    "trainer.devices": (1, ANY),
    "trainer.num_nodes": (1, ANY),
    "trainer.gradient_clip_val": (SMALLEST, ANY),
    "trainer.early_stopping": (1, ANY),
    "trainer.limit_train_batches": (SMALLEST, ANY),
    "trainer.limit_val_batches": (SMALLEST, ANY),
    "trainer.limit_test_batches": (SMALLEST, ANY),
    "optimizer.lr": (0, ANY),
    "optimizer.weight_decay": (0, ANY),
    "finetune.l2_sp": (0, ANY),
    "finetune.ema": (0, 0.999999),
    "features.views": (1, ANY),
    "features.max_gb": (0, ANY),
    "loss.label_smoothing": (0, 0.99),
    "checkpoint.every_n_steps": (1, ANY),
    "seed": (0, 2**32 - 1),
}
READ_CHOICES: Choices = {
    "precision": (None, *PRECISIONS),
    "accelerator": ACCELERATORS,
    "trust": (None, True, False),
}
READ_BOUNDS: Bounds = {"batch_size": (1, ANY), "num_workers": (0, ANY)}


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
    makes_its_own = cfg.data.source._target_.endswith(("demo_index", "torchvision_index"))
    if cfg.data.root is not None and not makes_its_own and not Path(cfg.data.root).expanduser().exists():
        raise UserError(
            f"data.root={cfg.data.root} does not exist; check the path (it is relative to {Path.cwd()})"
        )
    if not OmegaConf.is_dict(cfg.backbone.kwargs):
        raise UserError(
            f"backbone.kwargs={cfg.backbone.kwargs} is no mapping; give for example "
            "'backbone.kwargs={drop_path_rate: 0.1}'"
        )
    if cfg.optimizer.get("lr", 0) is None:
        raise UserError("optimizer.lr=null is not a number; give the head's peak learning rate")
    if cfg.trainer.strategy == "fsdp":
        raise UserError(
            "trainer.strategy=fsdp is not possible: it scatters the weights over the processes, while unfreezing "
            "stage by stage and the digests that prove it need them whole; take trainer=ddp"
        )
    check_values(cfg, TRAIN_CHOICES, TRAIN_BOUNDS)
    if cfg.finetune.l2_sp and cfg.finetune.pretrained and cfg.backbone.weights is None:
        raise UserError(
            f"finetune.l2_sp={cfg.finetune.l2_sp} decays towards pretrained weights, but backbone.weights=null has "
            "none; give backbone.weights, or finetune.l2_sp=0 and use optimizer.weight_decay"
        )
    if cfg.trainer.sync_batchnorm and cfg.trainer.devices * cfg.trainer.num_nodes == 1:
        raise UserError(
            "trainer.sync_batchnorm=true says nothing of one process; leave it out, or give trainer=ddp"
        )


def check_monitors(cfg: DictConfig, metrics: Sequence[str]) -> None:
    """Refuse to watch a metric that the run will not have.

    Raises:
        UserError: Lists those it will have.
    """
    watched = {"checkpoint.monitor": cfg.checkpoint.monitor, "scheduler.monitor": cfg.scheduler.get("monitor")}
    for name, phase in cfg.finetune.phases.items():
        watched[f"finetune.phases.{name}.until.monitor"] = phase.until.get("monitor") if phase.until else None
    for key, monitor in watched.items():
        if monitor is not None and monitor not in metrics:
            raise UserError(f"{key}={monitor} is not a metric of this run; there are {', '.join(metrics)}")


def check_shares(images: Mapping[str, int], devices: int, nodes: int = 1) -> None:
    """Refuse a split of which some process would get no image.

    Args:
        images: Per split.
        devices: Processes on each node.
        nodes: Machines.

    Raises:
        UserError: Names the split.
    """
    for split, count in images.items():
        if count < devices * nodes:
            several = f" on trainer.num_nodes={nodes}" if nodes > 1 else ""
            raise UserError(
                f"trainer.devices={devices}{several} is too many for the {count} images of {split}; "
                f"give {'fewer of both' if several else f'trainer.devices={max(1, count)} or less'}"
            )


def check_values(cfg: DictConfig, choices: Choices, bounds: Bounds) -> None:
    """Hold keys against what they may be; null and keys that are not there pass the bounds.

    Raises:
        UserError: Names the first key that is wrong, and what it may be.
    """
    for key, options in choices.items():
        value = OmegaConf.select(cfg, key)
        if not any(value == option and isinstance(value, type(option)) for option in options):  # 1 is not true
            raise UserError(f"{key}={value} is not one of {', '.join(map(_typed, options))}")
    for key, (least, most) in bounds.items():
        value = OmegaConf.select(cfg, key)
        if value is None:
            continue
        if not _is_number(value) or value != value:
            raise UserError(f"{key}={value} is not a number")
        if key.startswith("trainer.limit_") and isinstance(value, float) and value > 1:
            raise UserError(f"{key}={value} is neither a whole number of batches nor a share of them up to 1.0")
        if value < least:
            raise UserError(f"{key}={value} is too small; give {_bound(least)}")
        if value > most:
            raise UserError(f"{key}={value} is too large; give {most:.12g} or less")


def _typed(option: str | bool | None) -> str:
    """Return an option as it is typed on the command line."""
    if isinstance(option, bool):
        return str(option).lower()
    return "null" if option is None else option


def _bound(least: float) -> str:
    return "more than 0" if least == SMALLEST else f"{least:g} or more"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
