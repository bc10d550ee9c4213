"""What `trainer.compile` asks for: in which phases of a run what trains goes through torch's compiler."""

import logging
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from tlab.parts import network_name

log = logging.getLogger(__name__)

if TYPE_CHECKING:  # torch is imported when a run begins, not for --help
    from tlab.finetuning import Plan
    from tlab.models.classifier import Classifier
    from tlab.models.compile_trial import Setting
    from tlab.models.compiling import CompiledTraining
    from tlab.models.precision import Precision


def choose_compiled(
    cfg: DictConfig, net: "Classifier", plan: "Plan", precision: "Precision", images: int, begun: dict[str, Any]
) -> list[str]:
    """Return the names of the phases in which what trains is compiled: what `trainer.compile` asks for.

    Args:
        cfg: Of the run.
        net: Its network.
        plan: Who trains when.
        precision: Of the run.
        images: That an epoch trains on.
        begun: The record of a run that goes on, which keeps what it began with on the same kind of device.

    Raises:
        UserError: It asks for a compiler that is not there.
    """
    from tlab.finetuning.plan import HEAD
    from tlab.models.compile_choice import worth_compiling
    from tlab.models.compiling import check_compiler
    from tlab.models.precision import find_accelerator

    lengths = [plan.length(index, start) for index, start in enumerate(plan.starts)]
    training = [pair for pair in zip(plan.phases, lengths, strict=True) if pair[0].trained != {HEAD}]
    if cfg.trainer.compile is False or not training:
        return []
    accelerator = find_accelerator(cfg.trainer.accelerator)
    if str(begun.get("device", "")).startswith(accelerator):
        return begun.get("compiled", [])  # there is none in the record of a version that compiled nothing
    if cfg.trainer.compile is True:
        check_compiler(accelerator)
        return [phase.name for phase, _ in training]
    if cfg.trainer.sync_batchnorm:  # a trial in one process would not see what the exchange does to the graph
        return []
    work: Counter[frozenset[str]] = Counter()
    for phase, epochs in training:
        work[phase.trained] += epochs * images_per_epoch(cfg, images)
    chosen, why = worth_compiling(net, work, compile_setting(cfg, precision, images))
    names = [phase.name for phase, _ in training if phase.trained in chosen]
    level = logging.INFO if names else logging.DEBUG  # most runs are short
    log.log(level, "torch.compile %s: %s", f"in phase {', '.join(names)}" if names else "not used", why)
    return names


def images_per_epoch(cfg: DictConfig, images: int) -> int:
    """Return on how many of `images` each process trains in an epoch."""
    share = _share(cfg, images)
    limit = cfg.trainer.limit_train_batches
    if limit is None:
        return share
    return int(share * limit) if isinstance(limit, float) else min(share, limit * cfg.data.batch_size)


def _share(cfg: DictConfig, images: int) -> int:
    """Return how many of `images` each process has."""
    return -(-images // (cfg.trainer.devices * cfg.trainer.num_nodes))


def compile_setting(cfg: DictConfig, precision: "Precision", images: int) -> "Setting":
    """Return what the speed of this run's training steps depends on."""
    from tlab.models.compile_trial import Setting
    from tlab.models.precision import find_accelerator

    return Setting(
        name=network_name(cfg),
        image_size=cfg.data.image_size,
        batch_size=min(cfg.data.batch_size, _share(cfg, images)),
        accelerator=find_accelerator(cfg.trainer.accelerator),
        precision=precision,
        channels_last=cfg.trainer.channels_last,
    )


def build_training_net(
    cfg: DictConfig, net: "Classifier", plan: "Plan", precision: "Precision", images: int, compiled: list[str]
) -> "CompiledTraining | None":
    """Return what computes the logits in training where some phases are compiled.

    Args:
        cfg: Of the run.
        net: Its network.
        plan: Who trains when.
        precision: Of the run.
        images: That an epoch trains on.
        compiled: Names of the phases.
    """
    from tlab.models.compile_choice import note_seconds
    from tlab.models.compiling import CompiledTraining

    if not compiled:
        return None
    setting = compile_setting(cfg, precision, images)
    groups = {phase.trained for phase in plan.phases if phase.name in compiled}
    return CompiledTraining(net, groups, setting.batch_size, note=partial(note_seconds, net, setting))
