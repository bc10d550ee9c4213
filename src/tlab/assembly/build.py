"""The parts of a run, each built from its group of the configuration; `train.py` puts them together."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tlab.assembly.callbacks import refusals_told
from tlab.assembly.describe import preprocessing
from tlab.assembly.precision_and_compile import batch_size
from tlab.config.diff import AUTO
from tlab.config.head_solver import SOLVED, STEPS, by_steps, solver, unsolvable
from tlab.config.provenance import with_value
from tlab.config.validation import best_is
from tlab.core.error_messages import one_line
from tlab.core.errors import DownloadFailed, UserError
from tlab.core.text import as_text

log = logging.getLogger(__name__)

if TYPE_CHECKING:  # torch is imported when a run begins, not for --help
    import lightning.pytorch as L
    from lightning.pytorch.loggers import Logger
    from torch.optim import Optimizer

    from tlab.data.datamodule import ImageDataModule
    from tlab.finetuning import Plan
    from tlab.models.autotune.precision import Precision
    from tlab.models.classifier import Classifier
    from tlab.models.module import ImageClassifier
    from tlab.models.stages import StagedBackbone
    from tlab.runs.directory import RunDirectory


def communication(trainer: DictConfig) -> str:
    """Return the backend of the run's processes: `nccl` between GPUs, `gloo` between CPU cores.

    Raises:
        UserError: There are fewer devices than processes, or an option does not work on them.
    """
    import torch

    from tlab.models.autotune.precision import find_accelerator

    accelerator = find_accelerator(trainer.accelerator)
    here = {"cuda": torch.cuda.device_count(), "mps": 1}.get(accelerator)
    if here is not None and trainer.devices > here:
        raise UserError(
            f"trainer.devices={trainer.devices} asks for more than is here ({accelerator}: {here}); "
            f"give trainer.devices={here}, or trainer.accelerator=cpu to try several processes out"
        )
    if accelerator == "cpu" and trainer.sync_batchnorm:
        raise UserError("trainer.sync_batchnorm=true needs GPUs; leave it out on a CPU")
    return "nccl" if accelerator == "cuda" else "gloo"


def build_backbone(
    cfg: DictConfig,
    begun: dict[str, Any] | None = None,
    checkpoint: Path | None = None,
    given: Sequence[str] = (),
) -> "StagedBackbone":
    """Return the backbone with its weights, or random ones where the plan is to train from scratch.

    Args:
        cfg: The run's configuration.
        begun: Record of a resumed run, which keeps its token layout; None or empty for a new run.
        checkpoint: Checkpoint that the run resumes from: it has all weights, and stands in for those of the
            configuration where they cannot be read any more.
        given: Overrides that `cfg` was composed from, for the command to give where weights cannot be fetched.
    """
    from tlab.runs.continuation import without_download
    from tlab.runs.load import instantiate_backbone

    weights = cfg.backbone.weights if cfg.finetune.pretrained else None
    try:
        return instantiate_backbone(cfg, weights, cfg.data.image_size, begun)
    except (UserError, InstantiationException) as error:
        failed = next((each for each in (error, error.__cause__) if isinstance(each, DownloadFailed)), None)
        if checkpoint is None and failed is not None:
            raise DownloadFailed(f"{failed}{without_download(cfg, given)}") from error
        if weights is None or checkpoint is None or not begun:
            raise
        backbone = instantiate_backbone(cfg, str(checkpoint), cfg.data.image_size, begun)
        log.warning("%s; the run goes on with its own, from %s", one_line(error), checkpoint)
        known = {"description": begun["weights"], "digest": begun["weights_digest"]} if "weights" in begun else {}
        backbone.pretraining = replace(backbone.pretraining, classes=None, **known)  # the head has its rows
        return backbone


def build_net(cfg: DictConfig, backbone: "StagedBackbone", data: "ImageDataModule") -> "Classifier":
    """Return backbone and head for the data's classes, with the normalization that `data.normalize` asks for."""
    from tlab.models.classifier import Classifier
    from tlab.models.head_init import reuse_rows
    from tlab.runs.load import build_head

    head = build_head(cfg, backbone, data.num_classes)
    pooling, last = cfg.head.get("pooling", "avg"), backbone.stage_names[-1]
    if pooling != "avg" and len(backbone.stage_shapes(cfg.data.image_size)[last]) == 1:
        log.warning("head.pooling=%s changes nothing, because %s returns one vector for an image", pooling, last)
    if cfg.finetune.pretrained:
        reuse_rows(head, backbone.pretraining, data.classes, cfg.head.get("reuse"))
    mean, std = backbone.pretraining.mean, backbone.pretraining.std
    if cfg.data.normalize == "dataset":
        mean, std = data.mean_std()
    elif cfg.data.normalize == "none":
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    log.info("%s, %s", cfg.backbone.name, backbone.pretraining.description)
    return Classifier(backbone, head, mean, std)


def adapt_batchnorm(
    cfg: DictConfig, net: "Classifier", data: "ImageDataModule", plan: "Plan", checkpoint: Path | None
) -> DictConfig:
    """Give BatchNorm the statistics that `finetune.batchnorm` names, and return the configuration without `auto`.

    A checkpoint has them; but `finetune.l2_sp` compares the weights that a run has begun with, so for it they are
    estimated again.
    """
    import torch

    from tlab.core.processes import from_first_process
    from tlab.finetuning.batchnorm import (
        ESTIMATED,
        FIXED,
        batchnorm_layers,
        choose_batchnorm,
        estimate_batchnorm,
        statistics_digest,
    )
    from tlab.finetuning.plan import HEAD
    from tlab.models.autotune.precision import find_accelerator

    device = torch.device(find_accelerator(cfg.trainer.accelerator))
    pretrained = cfg.finetune.pretrained and cfg.backbone.weights is not None
    whole = cfg.trainer.limit_train_batches is None  # else it is a trial that shall be short
    tells = pretrained and whole and plan.phases[0].trained == {HEAD} and batchnorm_layers(net.backbone)
    begins = pretrained and (checkpoint is None or cfg.finetune.l2_sp)
    asked = {AUTO: tells, ESTIMATED: begins}.get(cfg.finetune.batchnorm)
    known_as = statistics_digest(net, data) if asked else None  # it reads all weights
    if cfg.finetune.batchnorm == AUTO:
        chosen = from_first_process(choose_batchnorm, net, data, device, known_as) if tells else "pretrained"
        cfg = with_value(cfg, "finetune.batchnorm", chosen)
    net.fixed_batchnorm = cfg.finetune.batchnorm == FIXED
    if cfg.finetune.batchnorm == ESTIMATED and begins:
        estimate_batchnorm(net, data, device, cfg.backbone.name, known_as)
    return cfg


def make_plan(cfg: DictConfig, backbone: "StagedBackbone") -> "Plan":
    """Return the plan that `finetune` asks for, over this backbone's stages."""
    from tlab.finetuning import Until, build_plan

    monitor, patience = cfg.checkpoint.monitor, cfg.trainer.early_stopping
    finetune: Any = OmegaConf.to_container(cfg.finetune, resolve=True)
    plan = build_plan(
        finetune["phases"],
        cfg.trainer.max_epochs,
        backbone.stage_names,
        finetune["backbone_lr_scale"],
        finetune["stage_lr_decay"],
        finetune["stage_lr_scales"],
        finetune["head_first"],
        None if patience is None else Until(monitor, patience, mode=best_is(monitor, cfg.checkpoint.mode)),
    )
    if cfg.finetune.soup:
        check_soup(plan)
    if solver(cfg) == STEPS:
        return plan
    if reason := unsolvable(cfg):
        raise UserError(f"head.solver=lbfgs cannot be used here: {reason}; give head.solver=sgd")
    return plan.with_solved_heads()


def check_soup(plan: "Plan") -> None:
    """Refuse a soup where no phase of the head alone comes before others.

    Raises:
        UserError: There is none, or nothing follows it.
    """
    from tlab.finetuning.plan import HEAD

    if plan.phases[0].trained != {HEAD} or all(phase.trained == {HEAD} for phase in plan.phases):
        raise UserError(
            "finetune.soup=wise lies between a phase of the head alone and what trains after it, and this plan has "
            f"only {', '.join(phase.name for phase in plan.phases)}; give finetune=lp_ft, or finetune.soup=null"
        )


def choose_solver(cfg: DictConfig, data: "ImageDataModule", net: "Classifier", plan: "Plan") -> DictConfig:
    """Return the configuration with `lbfgs` in place of `auto`, or `sgd` where the data do not allow it.

    Args:
        cfg: The run's configuration.
        data: The run's data module, set up.
        net: The run's network.
        plan: The run's phases, in which those of the head alone are solved.
    """
    from tlab.finetuning import FeatureCache

    if solver(cfg) != AUTO:
        return cfg
    cache = FeatureCache(cfg.features.views, cfg.features.max_gb)
    for images in (data, data.joined()) if cfg.refit else (data,):
        for phase in plan.phases:
            if phase.solved and (reason := cache.obstacle(images, phase, net.head.pooled_features)):
                return by_steps(cfg, reason)
    log.info("head: solved at its optimum (head.solver=auto); head.solver=sgd trains it")
    return with_value(cfg, "head.solver", SOLVED)


def build_optimizer(cfg: DictConfig, precision: "Precision") -> Callable[[list[dict[str, Any]]], "Optimizer"]:
    """Return the builder of the optimizer from its parameter groups, fused where possible.

    Not where the user has chosen an implementation, nor with fp16; nor where Lightning clips gradients beside
    autocast: it refuses a kernel that unscales gradients itself, although those of bf16 have no scale.
    """
    import torch

    build = instantiate(cfg.optimizer, _convert_="all")
    fusible = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
    chosen = {"fused", "foreach", "differentiable", "capturable"} & set(cfg.optimizer)
    clips = cfg.trainer.gradient_clip_val is not None and precision == "bf16-mixed"
    if getattr(build, "func", None) in fusible and not chosen and precision != "16-mixed" and not clips:
        return partial(build, fused=True)
    return build


def build_data(cfg: DictConfig, begun: dict[str, Any] | None = None) -> "ImageDataModule":
    """Return the data module, not set up yet, with the augmentation of each phase that has one of its own.

    Args:
        cfg: The run's configuration.
        begun: Record of a resumed run, which keeps its order of classes, and black and white of samples of more
            than 8 bits; None or empty for a new run.

    Raises:
        UserError: A phase's augmentation is not one of the config group `aug`.
    """
    from tlab.data.contents import keeping_order
    from tlab.data.sources.evaluation_sources import sources_of_tests

    own = {name: phase.aug for name, phase in cfg.finetune.phases.items() if phase.aug is not None}
    for name, aug in own.items():
        if not OmegaConf.is_dict(aug) or set(aug) != {"transforms", "mix"} or not OmegaConf.is_dict(aug.transforms):
            raise UserError(
                f"finetune.phases.{name}.aug={aug} is no augmentation; choose one of the group aug for it: "
                f"+aug@finetune.phases.{name}.aug=strong"
            )
    data = instantiate(cfg.data.module, phases=own)
    data.test_sources = sources_of_tests(data.source, cfg.data.get("tests"))
    if begun:
        from tlab.data.decode_options import levels_from  # imports NumPy

        data.levels = levels_from(begun.get("levels"))
        data.source = keeping_order(data.source, [*map(as_text, begun.get("class_names", ()))])
    return data


def build_module(
    cfg: DictConfig,
    config: dict[str, Any],
    net: "Classifier",
    data: "ImageDataModule",
    plan: "Plan",
    precision: "Precision",
    compiled: list[str],
) -> "ImageClassifier":
    """Return the network with its loss, metrics and optimizer.

    Args:
        cfg: The run's configuration.
        config: The configuration as the run's checkpoints keep it.
        net: The run's network.
        data: The run's data module, set up.
        plan: The run's phases.
        precision: The run's precision.
        compiled: Names of the phases whose trainable part is compiled.
    """
    from tlab.models.autotune.compiled import CompiledTraining
    from tlab.models.module import ImageClassifier
    from tlab.runs.load import build_loss

    counts = data.class_counts()
    mixes = any(data.training_images(phase.key).mixing is not None for phase in plan.phases)
    loss, weights = build_loss(cfg, data.classes, counts, mixes)
    groups = {phase.trained for phase in plan.phases if phase.name in compiled}
    batch = batch_size(cfg, len(data.index.splits["train"]))
    return ImageClassifier(
        net,
        data.classes,
        optimizer=build_optimizer(cfg, precision),
        loss=loss,
        class_weights=weights,
        channels_last=cfg.trainer.channels_last,
        about={"config": config, "class_counts": counts.tolist(), **preprocessing(cfg, data, net, precision)},
        training_net=CompiledTraining(net, groups, batch) if groups else None,
    )


def build_loggers(cfg: DictConfig) -> "list[Logger]":
    """Return the run's loggers, which may fail without ending the run.

    Raises:
        UserError: The package of one is missing, or its store cannot be opened.
    """
    from tlab.runs.loggers import outlasted

    return [outlasted(logger, name) for name, logger in instantiate(cfg.logger, _convert_="all").items()]


@refusals_told()
def build_trainer(
    cfg: DictConfig,
    run: "RunDirectory",
    precision: "Precision",
    plan: "Plan",
    callbacks: list["L.Callback"],
    loggers: "list[Logger]",
) -> "L.Trainer":
    """Return the Lightning trainer with its callbacks and loggers."""
    import lightning.pytorch as L
    from lightning.pytorch.callbacks import ProgressBar
    from lightning.pytorch.plugins.environments import LightningEnvironment

    from tlab.finetuning.ddp import PhasedDDP
    from tlab.models.autotune.precision import find_accelerator
    from tlab.runs.checkpoints import AtomicCheckpointIO

    several = cfg.trainer.devices * cfg.trainer.num_nodes > 1
    return L.Trainer(
        accelerator=find_accelerator(cfg.trainer.accelerator),
        devices=cfg.trainer.devices,
        num_nodes=cfg.trainer.num_nodes,
        strategy=PhasedDDP() if several else "auto",
        sync_batchnorm=cfg.trainer.sync_batchnorm,
        precision=precision,
        max_epochs=plan.epochs,
        logger=loggers,
        callbacks=callbacks,
        # else Lightning takes the tasks of a Slurm job for its processes, and requeues the job in its own way
        plugins=[AtomicCheckpointIO(run), *([] if several else [LightningEnvironment()])],
        gradient_clip_val=cfg.trainer.gradient_clip_val,
        accumulate_grad_batches=cfg.trainer.accumulate_grad_batches,
        limit_train_batches=cfg.trainer.limit_train_batches,
        limit_val_batches=cfg.trainer.limit_val_batches,
        limit_test_batches=cfg.trainer.limit_test_batches,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=run.path,
    )
