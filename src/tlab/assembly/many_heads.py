"""Which heads of a sweep train in one pass, and the pass itself, from the configurations of their runs."""

import copy
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import lightning.pytorch as L
import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn, optim

from tlab.assembly.build import build_optimizer
from tlab.config.diff import AUTO, flat
from tlab.config.head_solver import settings_ask_for_steps, solver
from tlab.config.validation import check
from tlab.core.errors import UserError
from tlab.core.files import atomic_path
from tlab.data.datamodule import ImageDataModule
from tlab.data.feature_batches import FeatureBatches
from tlab.data.sampler import EpochSampler
from tlab.finetuning import RunState
from tlab.finetuning.many_heads.joint_training import HeadEpoch, HeadOfRun, train_jointly
from tlab.finetuning.many_heads.recorded_epochs import RecordedEpochs
from tlab.finetuning.plan import HEAD
from tlab.finetuning.schedules import PhasedScheduler
from tlab.models.classifier import split_by_decay
from tlab.models.head import Head
from tlab.models.losses import CrossEntropy, Focal, LogitAdjusted
from tlab.models.module import ImageClassifier, optimizer_groups
from tlab.runs.graceful_stop import GracefulStop
from tlab.runs.history import RunRecorder
from tlab.runs.load import build_loss
from tlab.sweeps.head_groups import HeadGroup
from tlab.sweeps.jobs import Job

log = logging.getLogger(__name__)

C = TypeVar("C", bound=L.Callback)

MOST_BYTES = 2**28  # of the records of one pass; more heads train in several passes
COPIES = 4  # of a head's parameters in a record of one epoch, at most: itself, and what optimizers keep of each
LOSSES = (CrossEntropy, LogitAdjusted, Focal)
# Optimizers that look at each parameter by itself
OPTIMIZERS = (
    *(optim.SGD, optim.Adam, optim.AdamW, optim.Adamax, optim.NAdam, optim.RAdam),
    *(optim.RMSprop, optim.Adagrad, optim.Adadelta),
)
# What the features of a run, and the form of its head, depend on
SETTINGS = ("backbone", "head", "data", "aug", "finetune", "trainer", "features")
# Heads may differ in it
OF_HEAD = ("head.dropout", "head.solver", "data.balanced", "data.module.balanced", "data.class_weights")
OF_SEED = ("data.split_seed", "data.module.seed", "data.source.seed", "data.module.source.seed")


def share_training(
    group: HeadGroup,
    cfg: DictConfig,
    trainer: L.Trainer,
    module: ImageClassifier,
    data: ImageDataModule,
    state: RunState,
) -> None:
    """Let a new run of a sweep train its head together with those of others, where the result is the same.

    Args:
        group: The runs that may share the training.
        cfg: The run's configuration.
        trainer: Its trainer, whose loop over an epoch's steps is replaced.
        module: Its module.
        data: Its data.
        state: Its state.
    """
    if trains_a_head_alone(cfg, trainer, state):
        recorder = _the(RunRecorder, trainer)
        shared = SharedTraining(group, cfg, trainer, module, data, state, recorder)
        RecordedEpochs(trainer, shared.recorded_epochs, recorder.count_seconds)


def trains_a_head_alone(cfg: DictConfig, trainer: L.Trainer, state: RunState) -> bool:
    """Tell whether a run trains its head alone, on a CPU, and nothing but its optimizer acts on a step."""
    (phase, *more), options = state.plan.phases, cfg.trainer
    return (
        not more
        and phase.trained == {HEAD}
        and not phase.solved
        and trainer.strategy.root_device.type == "cpu"
        and str(trainer.precision) in ("32-true", "bf16-mixed")
        and cfg.finetune.ema is None
        and not cfg.finetune.l2_sp
        and not cfg.find_lr
        and not cfg.callbacks
        and cfg.checkpoint.every_n_steps is None
        and options.gradient_clip_val is None
        and options.accumulate_grad_batches == 1
    )


@dataclass
class SharedTraining:
    """The training of a run's head, in one pass with those of others.

    Attributes:
        group: The runs that may share it.
        cfg: Configuration of the run.
        trainer: Its trainer.
        module: Its module, whose head is as before training.
        data: Its data.
        state: Its state, in the phase that trains the head.
        recorder: The callback that keeps its time.
    """

    group: HeadGroup
    cfg: DictConfig
    trainer: L.Trainer
    module: ImageClassifier
    data: ImageDataModule
    state: RunState
    recorder: RunRecorder

    def recorded_epochs(self) -> Sequence[HeadEpoch]:
        """Return the run's epochs from a pass that was, or that takes place now; none: the run trains alone."""
        features = self.data.train_dataloader().source
        if not isinstance(features, FeatureBatches) or not features.is_pooled:
            return []
        record, began = self.group.record(self.group.own), time.perf_counter()
        with self.group.alone():
            if not record.exists():
                self._train(features)
        if not record.exists():
            return []
        found = torch.load(record, weights_only=True)
        record.unlink()
        if found["features"] != _files(features):
            return []
        self.recorder.count_seconds(began - time.perf_counter())  # each run counts its share, epoch by epoch
        return [HeadEpoch(**epoch) for epoch in found["epochs"]]

    def _train(self, features: FeatureBatches) -> None:
        """Train the heads of the run and of the others that suit it, and leave their records."""
        length = self.state.records[-1].length
        values = sum(parameter.numel() for parameter in self.module.net.head.parameters())
        most = MOST_BYTES // (4 * values * COPIES * length)
        runs: dict[Job, HeadOfRun] = {}
        if (own := self._head_of(self.group.own, self.cfg, features, runs)) is None:
            return
        runs[self.group.own] = own
        for job in self.group.others():
            if len(runs) < most and (run := self._head_of_other(job, features, runs)) is not None:
                runs[job] = run
        if len(runs) == 1:
            return
        log.info("the heads of %d runs train in one pass", len(runs))
        recorded = train_jointly(
            [*runs.values()],
            features,
            range(length),
            precision=str(self.trainer.precision),
            scales=self.state.scales,
            weight_decay=self.state.phase.weight_decay,
            between_steps=self._stop_if_told,
        )
        for job, epochs in zip(runs, recorded, strict=True):
            if epochs:
                with atomic_path(self.group.record(job)) as temporary:
                    record = {"features": _files(features), "epochs": [vars(epoch) for epoch in epochs]}
                    torch.save(record, temporary)

    def _head_of_other(
        self, job: Job, features: FeatureBatches, before: Mapping[Job, HeadOfRun]
    ) -> HeadOfRun | None:
        """Return what trains another run's head; None where it has a mistake, or does not suit this one's."""
        try:
            cfg = self.group.compose(job)
            check(cfg)
            return self._head_of(job, cfg, features, before) if self._suits(job, cfg, features) else None
        except (UserError, HydraException, OmegaConfBaseException):  # which the run itself will meet
            return None

    def _head_of(
        self, job: Job, cfg: DictConfig, features: FeatureBatches, before: Mapping[Job, HeadOfRun]
    ) -> HeadOfRun | None:
        """Return what trains a run's head; None where a joint pass cannot do the same.

        Args:
            job: The run.
            cfg: Its configuration.
            features: Features of the training images.
            before: The runs of the pass so far; one of the same order of images shares it.
        """
        head = copy.deepcopy(self.module.net.head)
        for layer in head.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = float(cfg.head.dropout)
        counts, mixes = self.data.class_counts(), features.mixing is not None
        loss, weights = build_loss(cfg, self.data.classes, counts, mixes)
        precision: Any = self.trainer.precision
        optimizer = build_optimizer(cfg, precision)(optimizer_groups(HEAD, split_by_decay(head)))
        kinds = {type(run.optimizer) for run in before.values()} or {type(optimizer)}
        if type(head) is not Head or weights is not None or type(loss) not in LOSSES:
            return None
        if type(optimizer) not in OPTIMIZERS or kinds != {type(optimizer)}:
            return None
        scheduler = PhasedScheduler(optimizer, instantiate(cfg.scheduler, _convert_="all"))
        steps = int(self.trainer.num_training_batches)
        scheduler.start_phase(self.state.records[-1].length * steps, steps, self.state.phase.schedule)
        if scheduler.current.monitor is not None:
            return None
        order = {"seed": cfg.data.module.seed, "balanced": cfg.data.module.balanced}
        samplers = [run.sampler for run in before.values() if vars(run.sampler).items() >= order.items()]
        sampler = EpochSampler(features.labels, batch_size=self.data.batch_size, **order)
        return HeadOfRun(head, loss, optimizer, scheduler, (*samplers, sampler)[0], cfg.seed)

    @cached_property
    def _undecided(self) -> DictConfig:
        """The run's configuration as those of the others are: with `auto` where the run has decided since."""
        return self.group.compose(self.group.own)

    def _suits(self, job: Job, cfg: DictConfig, features: FeatureBatches) -> bool:
        """Tell whether another run sees the same features, with a head that is the same before training."""
        own, other = _settings(self._undecided), _settings(cfg)
        changed = {key for key in own.keys() | other.keys() if own.get(key) != other.get(key)}.difference(OF_HEAD)
        if changed.difference(OF_SEED) or not self._takes_steps(job, cfg):
            return False
        if not changed:
            return True
        # a seed can also decide on random weights, the views, what is mixed and the split
        images = self.data.training_images(self.state.phase.key)
        random = not cfg.finetune.pretrained or cfg.backbone.weights is None or cfg.backbone.get("random_from")
        same = images.is_fixed and features.mixing is None and not random and not self.module.net.head.hidden
        return same and _index(cfg) == _index(self.cfg)

    def _takes_steps(self, job: Job, cfg: DictConfig) -> bool:
        """Tell whether another run's head takes steps too: its settings ask for it, or the data do for both."""
        by_data = not settings_ask_for_steps(self._undecided, self.group.own.overrides)
        return settings_ask_for_steps(cfg, job.overrides) or (by_data and solver(cfg) == AUTO)

    def _stop_if_told(self) -> None:
        """End the pass if the run was told to stop; no head of the pass has begun then."""
        signals = _the(GracefulStop, self.trainer).signals
        if signals.received is not None:
            signals.stop()


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings that features and form of a head depend on."""
    return flat({node: OmegaConf.to_container(cfg[node], resolve=True) for node in SETTINGS})


def _files(features: FeatureBatches) -> list[str]:
    """Return the files of the features' views, whose names say all that they depend on."""
    return [str(getattr(view, "filename", "")) for view in features.views]


def _index(cfg: DictConfig) -> object:
    """Return the index of a run's images, before any is looked at."""
    return instantiate(cfg.data.module.source, _convert_="all")()


def _the(kind: type[C], trainer: L.Trainer) -> C:
    """Return the trainer's callback of a class."""
    return next(each for each in trainer.callbacks if isinstance(each, kind))  # type: ignore[attr-defined]
