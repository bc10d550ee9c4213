"""Choose a run's precision, and the phases whose trainable part is compiled."""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

log = logging.getLogger(__name__)

if TYPE_CHECKING:  # torch is imported when a run begins, not for --help
    from tlab.finetuning import Plan
    from tlab.models.autotune.compiled import Groups
    from tlab.models.autotune.precision import Precision
    from tlab.models.classifier import Classifier

LONG = 600.0  # seconds of training above which `auto` compiles: a graph takes up to a minute and saves a fraction


def choose_arithmetic(
    cfg: DictConfig, net: "Classifier", plan: "Plan", images: int, begun: dict[str, Any], done: int
) -> tuple["Precision", list[str]]:
    """Return a run's precision, and the names of the phases whose trainable part is compiled.

    Args:
        cfg: The run's configuration.
        net: The run's network; left unchanged.
        plan: The run's phases.
        images: Number of training images.
        begun: Record of a resumed run, which keeps both on the same kind of device; empty for a new run.
        done: Epochs that have been trained.

    Raises:
        UserError: `trainer.compile=true`, but torch.compile does not work here.
    """
    from tlab.finetuning.plan import HEAD

    precision = choose_precision(cfg, net, all(phase.trained == {HEAD} for phase in plan.phases), begun)
    return precision, choose_compiled(cfg, net, plan, precision, images, begun, done)


def choose_precision(
    cfg: DictConfig, net: "Classifier", head_only: bool, begun: Mapping[str, Any] = MappingProxyType({})
) -> "Precision":
    """Return `trainer.precision`; for `auto` the fastest one here, for a backbone that trains or never does."""
    from tlab.models.autotune.precision import fastest_precision, find_accelerator

    if cfg.trainer.precision != "auto":
        return cfg.trainer.precision
    accelerator = find_accelerator(cfg.trainer.accelerator)
    if str(begun.get("device", "")).startswith(accelerator):
        return begun["precision"]
    kwargs = OmegaConf.to_container(cfg.backbone.kwargs, resolve=True)
    name = f"{cfg.backbone.name}:{cfg.backbone.upto}" + (f":{json.dumps(kwargs, sort_keys=True)}" if kwargs else "")
    precision, why = fastest_precision(
        net, cfg.data.image_size, accelerator, cfg.trainer.channels_last, name, head_only
    )
    log.info("precision %s: %s", precision, why)
    return precision


def choose_compiled(
    cfg: DictConfig,
    net: "Classifier",
    plan: "Plan",
    precision: "Precision",
    images: int,
    begun: dict[str, Any],
    done: int,
) -> list[str]:
    """Return the names of the phases to compile at this precision; arguments as above."""
    from tlab.finetuning.plan import HEAD
    from tlab.models.autotune.compiled import check_compiler, step_seconds
    from tlab.models.autotune.precision import find_accelerator

    training = [phase for phase in plan.phases if phase.trained != {HEAD}]
    if cfg.trainer.compile is False or not training:
        return []
    accelerator = find_accelerator(cfg.trainer.accelerator)
    if str(begun.get("device", "")).startswith(accelerator):
        return begun.get("compiled", [])  # records of earlier versions lack it
    if cfg.trainer.compile is True:
        check_compiler(accelerator)
        return [phase.name for phase in training]
    # on CPUs a step gains 5 to 20 %, and pays only after some 18 minutes of training; synchronizing BatchNorm cuts
    # the graph at each of them
    if accelerator != "cuda" or cfg.trainer.sync_batchnorm:
        return []
    batch = batch_size(cfg, images)
    how = (batch, cfg.data.image_size, accelerator, precision, cfg.trainer.channels_last)
    try:
        seconds = {groups: step_seconds(net, groups, *how) for groups in {phase.trained for phase in training}}
    except (RuntimeError, ValueError) as error:  # training meets the same, and says what to do
        log.debug("torch.compile not used: no training step could be timed (%s)", error)
        return []
    names = long_phases(plan, done, images_per_epoch(cfg, images) / batch, seconds)
    if names:
        log.info("torch.compile in phase %s: more than %.0f s of training are left", ", ".join(names), LONG)
    return names


def long_phases(plan: "Plan", done: int, steps: float, seconds: Mapping["Groups", float]) -> list[str]:
    """Return the names of the phases that `trainer.compile=auto` compiles on CUDA.

    Phases with the same set of trainable groups share a graph; they are compiled if together they still train for
    more than ten minutes. No phase is expected to end before its epochs are over.

    Args:
        plan: The run's phases.
        done: Epochs that have been trained.
        steps: Training steps in an epoch.
        seconds: Seconds of an uncompiled training step for each set of groups that may be compiled.
    """
    left: dict[Groups, float] = defaultdict(float)
    for index, (phase, start) in enumerate(zip(plan.phases, plan.starts, strict=True)):
        epochs = max(0, start + plan.length(index, start) - max(start, done))
        left[phase.trained] += epochs * steps * seconds.get(phase.trained, 0.0)
    return [phase.name for phase in plan.phases if left[phase.trained] > LONG]


def images_per_epoch(cfg: DictConfig, images: int) -> int:
    """Return the number of `images` on which each process trains in an epoch."""
    share = _share(cfg, images)
    limit = cfg.trainer.limit_train_batches
    if limit is None:
        return share
    return int(share * limit) if isinstance(limit, float) else min(share, limit * cfg.data.batch_size)


def batch_size(cfg: DictConfig, images: int) -> int:
    """Return the number of images in a training step of each process."""
    return min(cfg.data.batch_size, _share(cfg, images))


def _share(cfg: DictConfig, images: int) -> int:
    """Return the number of `images` that each process has."""
    return -(-images // (cfg.trainer.devices * cfg.trainer.num_nodes))
