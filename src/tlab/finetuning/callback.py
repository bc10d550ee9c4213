"""The callback that carries a plan out: it flips what trains and which rate scale applies, and nothing else."""

import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import BackboneFinetuning as LightningBackboneFinetuning
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from tlab.errors import UserError
from tlab.finetuning.distributed import PhasedDDP, verify_equal
from tlab.finetuning.plan import Phase, Plan
from tlab.finetuning.schedules import BuildSchedule, PhasedScheduler, constant
from tlab.models.classifier import Classifier, digest


@dataclass
class PhaseRecord:
    """What one phase did, for the run's record.

    Attributes:
        name: Name of the phase.
        trained: Groups that trained.
        epochs: Epochs that ended in it.
        seconds: Wall-clock time of those epochs, validation included.
        train_seconds: The part of it up to the last batch of each epoch.
        images: Training images seen.
        frozen_digests: SHA-256 of each frozen stage's parameters and buffers, taken at the phase's start.
    """

    name: str
    trained: list[str]
    epochs: int = 0
    seconds: float = 0.0
    train_seconds: float = 0.0
    images: int = 0
    frozen_digests: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain data, with the training speed."""
        return {**vars(self), "images_per_second": round(self.images / max(self.train_seconds, 1e-9), 1)}


class BackboneFinetuning(LightningBackboneFinetuning):
    """Freezes and unfreezes the stages of a `Classifier` as a `Plan` says.

    Unlike the callback it derives from, it adds no parameter group: the optimiser holds one pair of groups (with
    and without weight decay) per stage from the start, and a phase decides which of them train and at which scale.
    So every torch scheduler works across an unfreeze and a checkpoint from any phase resumes. A frozen stage does
    not move: its parameters get no gradient, its BatchNorm statistics and dropout stand still, and a digest taken
    when the phase starts is compared when it ends.

    The callback steps the schedule itself, after the optimiser's steps and before the epoch's checkpoint is
    written, because Lightning 2.6 steps metric-driven schedulers only after it.

    Args:
        plan: The phases.
        schedule: Builds the learning-rate schedule of one phase.
    """

    def __init__(self, plan: Plan, schedule: BuildSchedule = constant) -> None:
        unfrozen = next((phase.start for phase in plan.phases if phase.train != "head"), plan.epochs)
        super().__init__(unfreeze_backbone_at_epoch=unfrozen)
        self.plan = plan
        self.records: list[PhaseRecord] = []
        self.schedule = schedule
        self.scales: dict[str, float] = {}
        self.scheduler: PhasedScheduler | None = None
        self._scheduler_state: dict[str, Any] | None = None
        self._hooks: list[RemovableHandle] = []
        self._scheduled: list[float] = []
        self._epoch_started = self._batch_ended = 0.0

    @property
    def phase(self) -> Phase:
        """The phase in force; before the first epoch, the first phase."""
        entered = self.records[-1].name if self.records else self.plan.phases[0].name
        return next(phase for phase in self.plan.phases if phase.name == entered)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check every phase against the backbone's stages and freeze for the first one.

        Raises:
            UserError: A phase names a stage that the backbone does not have.
        """
        if stage == "fit":
            for phase in self.plan.phases:
                phase.groups(_net(pl_module).backbone.stage_names)
            self.freeze_before_training(pl_module)

    def freeze_before_training(self, pl_module: L.LightningModule) -> None:
        """Freeze what the phase in force does not train, and take up its rate scales."""
        net = _net(pl_module)
        net.set_trainable(self.phase.groups(net.backbone.stage_names))
        self.scales = self.plan.rate_scales(self.phase, net.backbone.stage_names)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Apply the phase in force (the first, or a checkpoint's) and hook the rates into the optimiser."""
        # frozen stages are in evaluation mode on purpose
        warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode at the start of training")
        self._apply(trainer, pl_module)
        optimizer = trainer.optimizers[0]
        self.scheduler = PhasedScheduler(optimizer, self.schedule)
        if self._scheduler_state is not None:  # Lightning restores the optimiser after this hook
            self.scheduler.load_state_dict(self._scheduler_state)
        self._hooks = [
            optimizer.register_step_pre_hook(self._scale),
            optimizer.register_step_post_hook(self._restore),
        ]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Enter the phase of this epoch if it is not the one in force."""
        self._epoch_started = self._batch_ended = time.perf_counter()
        phase = self.plan.phase_at(trainer.current_epoch)
        if not self.records or self.records[-1].name != phase.name:
            self.finetune_function(pl_module, trainer.current_epoch, trainer.optimizers[0])
            self._apply(trainer, pl_module)
            steps_per_epoch = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
            assert self.scheduler is not None
            try:
                self.scheduler.start_phase(phase.epochs * steps_per_epoch, steps_per_epoch)
            except (TypeError, ValueError, ZeroDivisionError) as error:
                raise UserError(f"scheduler cannot be built ({error}); correct its keys") from error

    def finetune_function(self, pl_module: L.LightningModule, epoch: int, optimizer: Optimizer) -> None:
        """Enter the phase of `epoch`: flip what trains and which scale applies."""
        phase, net = self.plan.phase_at(epoch), _net(pl_module)
        self._verify(net)
        trained = phase.groups(net.backbone.stage_names)
        frozen = [name for name in net.backbone.stage_names if name not in trained]
        self.records.append(
            PhaseRecord(
                phase.name,
                [name for name in net.group_names if name in trained],
                frozen_digests={name: digest(net.group(name)) for name in frozen},
            )
        )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count images and training time."""
        self.records[-1].images += len(batch.image) * trainer.world_size
        now = time.perf_counter()
        self.records[-1].train_seconds += now - self._batch_ended
        self._batch_ended = now

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Step an epoch-wise schedule and account the epoch (Lightning has validated by now)."""
        assert self.scheduler is not None
        self.scheduler.after_epoch(trainer.callback_metrics)
        self.records[-1].epochs += 1
        self.records[-1].seconds += time.perf_counter() - self._epoch_started

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Verify the last phase and let go of the optimiser."""
        self._verify(_net(pl_module))
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def rates(self) -> dict[str, float]:
        """Return each group's learning rate as the next step will apply it; 0 where the group is frozen."""
        assert self.scheduler is not None
        groups = self.scheduler.optimizer.param_groups
        return {group["group"]: group["lr"] * self.scales[group["group"]] for group in groups}

    def state_dict(self) -> dict[str, Any]:
        """Return plain data: the phases entered so far and the state of the schedule."""
        assert self.scheduler is not None
        return {
            "records": [dict(vars(record)) for record in self.records],
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the phase that the checkpoint was in."""
        self.records = [PhaseRecord(**record) for record in state_dict["records"]]
        self._scheduler_state = state_dict["scheduler"]

    def _apply(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the phase in force decide what trains, here and in the exchange between processes."""
        self.freeze_before_training(pl_module)
        if isinstance(trainer.strategy, PhasedDDP):
            trainer.strategy.rewrap()

    def _scale(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Scale the groups' rates for the length of one step, so that no schedule ever sees the scale."""
        self._scheduled = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] *= self.scales[group["group"]]

    def _restore(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group, rate in zip(optimizer.param_groups, self._scheduled, strict=True):
            group["lr"] = rate
        assert self.scheduler is not None
        self.scheduler.after_step()

    def _verify(self, net: Classifier) -> None:
        """Compare the stages that the last phase froze with their digests.

        Raises:
            RuntimeError: A frozen stage changed; the run's result would not be what its plan says.
        """
        if not self.records:
            return
        for name, before in self.records[-1].frozen_digests.items():
            if digest(net.group(name)) != before:
                raise RuntimeError(f"stage {name} changed while phase {self.records[-1].name} had it frozen")
        verify_equal(
            {name: digest(net.group(name)) for name in net.group_names}, f"after phase {self.records[-1].name}"
        )


def _net(pl_module: L.LightningModule) -> Classifier:
    net = pl_module.net
    assert isinstance(net, Classifier), "BackboneFinetuning drives a LightningModule whose `net` is a Classifier"
    return net
