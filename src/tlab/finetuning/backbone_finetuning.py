"""The callback that applies a plan: it switches which stages train and at which rate scale."""

import itertools
import logging
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import BackboneFinetuning as LightningBackboneFinetuning
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from tlab.core.hardware import cpus_per_process, single_threaded
from tlab.core.text import counted
from tlab.data.datamodule import ImageDataModule
from tlab.data.feature_batches import FeatureBatches
from tlab.data.loader import Loader
from tlab.finetuning.ddp import PhasedDDP, verify_equal
from tlab.finetuning.features.cache import FeatureCache, deepest
from tlab.finetuning.plan import HEAD
from tlab.finetuning.run_state import PhaseRecord, RunState
from tlab.finetuning.schedules import BuildSchedule, PhasedScheduler, constant
from tlab.finetuning.solved_head import solve_head
from tlab.models.classifier import Classifier, digest
from tlab.models.module import ImageClassifier, network

log = logging.getLogger(__name__)

ONE_CORE = 2**24  # multiplications per batch, a millisecond on one core; several cores wait longer for each other


class BackboneFinetuning(LightningBackboneFinetuning):
    """Freezes and unfreezes the stages of a `Classifier` as a `Plan` says.

    Unlike the callback it derives from, it adds no parameter group: the optimizer holds one pair of groups (with
    and without weight decay) per stage from the start, and a phase decides which of them train and at which scale.
    So every torch scheduler works across an unfreeze and a checkpoint from any phase resumes. A frozen stage does
    not change: its parameters get no gradient, it is in evaluation mode, and its digests from before and after the
    phase are compared.

    The callback steps the schedule itself, after the optimizer's steps and before the epoch's checkpoint is
    written, because Lightning 2.6 steps metric-driven schedulers only after it.

    Args:
        state: The run's state; its plan is followed, its records, scales and rates are written.
        schedule: Builder of a phase's learning-rate schedule.
        features: Cache of the frozen stages' output; None: every epoch runs all stages.
        replayed: Metrics of each epoch, which a schedule that goes by one gets in place of the run's own: a refit
            has the rates of the training before it, whose history this is. None: the run's own.

    Attributes:
        scheduler: The scheduler of all phases; None before the fit.
    """

    def __init__(
        self,
        state: RunState,
        schedule: BuildSchedule = constant,
        features: FeatureCache | None = None,
        replayed: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        plan = state.plan
        unfrozen = (start for start, phase in zip(plan.starts, plan.phases, strict=True) if phase.trained != {HEAD})
        super().__init__(unfreeze_backbone_at_epoch=next(unfrozen, plan.epochs))
        self.state = state
        self.schedule = schedule
        self.features = features
        self.replayed = replayed
        self.scheduler: PhasedScheduler | None = None
        self._scheduler_state: dict[str, Any] | None = None
        self._hooks: list[RemovableHandle] = []
        self._single_thread = ExitStack()  # holds `single_threaded` while a phase has it

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Freeze for the first phase."""
        if stage == "fit":
            self.freeze_before_training(pl_module)

    def freeze_before_training(self, pl_module: L.LightningModule) -> None:
        """Freeze what the current phase does not train, and set its rate scales."""
        network(pl_module).set_trainable(self.state.phase.trained)
        if self.state.phase.solved:
            network(pl_module).head.eval()  # measured without dropout while it stays as it is
        self.state.scales = self.state.plan.rate_scales(self.state.phase)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Apply the current phase (the first, or a checkpoint's) and hook the rates into the optimizer."""
        # Frozen stages are in evaluation mode on purpose
        warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode at the start of training")
        self._recount()
        self._apply(trainer, pl_module)
        optimizer = trainer.optimizers[0]
        self.scheduler = PhasedScheduler(optimizer, self.schedule)
        if self._scheduler_state is not None:  # Lightning restores the optimizer after this hook
            self.scheduler.load_state_dict(self._scheduler_state)
        self._hooks = [
            optimizer.register_step_pre_hook(self._scale),
            optimizer.register_step_post_hook(self._restore),
        ]
        if self.state.in_last_phase and self.state.phase_is_over:  # the run was stopped when all was done
            trainer.should_stop = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restart the current epoch where its length has changed: a run may be resumed with other images."""
        assert self.scheduler is not None
        if not self.state.records or self.scheduler.length[1] == _steps_per_epoch(trainer):
            return
        self.scheduler.change_epochs(_steps_per_epoch(trainer))
        if trainer.fit_loop.restarted_mid_epoch and isinstance(trainer.train_dataloader, Loader):
            epoch = trainer.fit_loop.epoch_loop
            epoch.batch_progress.increment_completed()  # the batch after which the checkpoint was written
            epoch.batch_progress.current.reset()
            epoch.reset_restart_stage()
            trainer.train_dataloader.start_anew()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Enter the next phase if the current one is over; not called where a run resumes inside an epoch."""
        if self.state.records and (self.state.in_last_phase or not self.state.phase_is_over):
            return
        self.finetune_function(pl_module, trainer.current_epoch, trainer.optimizers[0])
        self._apply(trainer, pl_module)
        steps = _steps_per_epoch(trainer)
        assert self.scheduler is not None
        epochs = self.state.phase.scheduled or self.state.records[-1].length
        self.scheduler.start_phase(epochs * steps, steps, self.state.phase.schedule)

    def finetune_function(self, pl_module: L.LightningModule, epoch: int, optimizer: Optimizer) -> None:
        """Enter the next phase at `epoch`: close the record of the last one and open a new one."""
        net = network(pl_module)
        self._verify(net)
        if self.state.records and self.state.phase.solved:  # its gradients say nothing about what follows
            for parameter in net.head.parameters():
                optimizer.state.pop(parameter, None)
        before = self.state.records[-1].digests_after if self.state.records else _digests(net)
        index = len(self.state.records)
        phase = self.state.plan.phases[index]
        trained = [name for name in net.group_names if name in phase.trained]
        length = self.state.plan.length(index, epoch)
        self.state.records.append(PhaseRecord(phase.name, trained, epoch, length, digests_before=before))
        log.info(
            "phase %s, up to %s: %s",
            *(phase.name, counted(length, "epoch")),
            f"trains {_listed(trained)}, " + (f"{len(net.group_names) - len(trained)} frozen"),
        )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write the rates that the step will apply."""
        assert self.scheduler is not None
        groups, warmup_factor = self.scheduler.optimizer.param_groups, self.scheduler.warmup_factor()
        scales = self.state.scales
        self.state.rates = {
            group["group"]: group["lr"] * scales[group["group"]] * warmup_factor for group in groups
        }
        if self.state.phase.solved:
            self.state.rates = {}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Step an epoch-wise schedule and see whether the phase is over (Lightning has validated by now)."""
        assert self.scheduler is not None
        own: Mapping[str, Any] = trainer.callback_metrics
        self.scheduler.after_epoch(own if self.replayed is None else self.replayed[trainer.current_epoch])
        self._count_epoch(trainer.callback_metrics)
        record, until = self.state.records[-1], self.state.phase.until
        if until is not None and self.state.phase_is_over and record.epochs < record.length:
            log.info("phase %s ends: %s has stopped improving at %.4g", record.name, until.monitor, record.best)
        if self.state.in_last_phase and self.state.phase_is_over:
            trainer.should_stop = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Verify the last phase and remove the optimizer's hooks."""
        self._single_thread.close()
        self._verify(network(pl_module))
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave single-threaded mode: the process may need all cores for another run."""
        self._single_thread.close()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the test start from the cached output of the stages that no phase has trained."""
        if self.features is None or not isinstance(trainer.datamodule, ImageDataModule):  # type: ignore[attr-defined]
            return
        net = network(pl_module)
        trained = {name for phase in self.state.plan.phases for name in phase.trained}
        never = list(itertools.takewhile(lambda name: name not in trained, net.backbone.stage_names))
        if upto := deepest(never, net):
            digests = {name: digest(net.group(name)) for name in never}
            features = self.features.of_test(trainer, _module(pl_module), upto, digests)
            trainer.datamodule.prepare_test(features)  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """Return plain data: the phases entered so far and the state of the schedule."""
        assert self.scheduler is not None
        return {
            "records": [dict(vars(record)) for record in self.state.records],
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the phase that the checkpoint was in."""
        self.state.records = [PhaseRecord(**record) for record in state_dict["records"]]
        self._scheduler_state = state_dict["scheduler"]

    def _apply(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set what trains, and where the batches come from, as the current phase says."""
        self.freeze_before_training(pl_module)
        if isinstance(trainer.strategy, PhasedDDP):
            trainer.strategy.rewrap()
        if not isinstance(data := trainer.datamodule, ImageDataModule):  # type: ignore[attr-defined]
            return
        self._single_thread.close()
        phase, features = self.state.phase.key, {}
        if not self.state.records or self.state.phase_is_over:
            data.prepare(phase)
            return
        if self.features is not None:
            features = self.features.of_phase(trainer, _module(pl_module), self.state.phase, self.state.records[-1])
        if self.state.phase.solved and self.state.records[-1].solution is None:
            train, l2 = features.get("train"), self.state.phase.l2
            self.state.records[-1].solution = solve_head(_module(pl_module), train, data, l2)
        data.prepare(phase, features, epochs=self.state.plan.epochs - trainer.current_epoch)
        if _is_small(_module(pl_module), data):
            self._single_thread.enter_context(single_threaded())

    def _count_epoch(self, metrics: Mapping[str, torch.Tensor]) -> None:
        """Count the epoch, and whether the metric that may end the phase has improved."""
        record, until = self.state.records[-1], self.state.phase.until
        record.epochs += 1
        if until is not None:
            record.observe(until, float(metrics[until.monitor]))

    def _recount(self) -> None:
        """Count what a phase has waited in a run of an earlier version, whose early stopping was no `until`."""
        record, until = self.state.records[-1] if self.state.records else None, self.state.phase.until
        if record is not None and until is not None and record.epochs and record.best is None:
            for row in self.state.rows:
                if row["phase"] == record.name:
                    record.observe(until, row[until.monitor])

    def _scale(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        assert self.scheduler is not None
        self.scheduler.scale_groups(self.state.scales, self.state.phase.weight_decay)

    def _restore(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        assert self.scheduler is not None
        self.scheduler.restore_groups()

    def _verify(self, net: Classifier) -> None:
        """Close the record of the current phase: the groups that it froze must be as they were.

        Raises:
            RuntimeError: A frozen group changed; the run's result would not be what its plan says.
        """
        if not self.state.records:
            return
        record = self.state.records[-1]
        record.digests_after = _digests(net)
        for name, before in record.digests_before.items():
            if name not in record.trained and record.digests_after[name] != before:
                raise RuntimeError(f"stage {name} changed while phase {record.name} had it frozen")
        verify_equal(record.digests_after, f"after phase {record.name}")


def _digests(net: Classifier) -> dict[str, str]:
    with ThreadPoolExecutor(cpus_per_process()) as pool:  # hashing releases the interpreter's lock
        return dict(zip(net.group_names, pool.map(digest, map(net.group, net.group_names)), strict=True))


def _is_small(module: ImageClassifier, data: ImageDataModule) -> bool:
    """Tell whether all that an epoch computes is a small head, on a CPU.

    Then the result is the same for any number of cores, too: the order in which sums are taken depends on it.
    """
    sources = [loader.source for loader in data.fit_loaders()]
    weights = sum(parameter.numel() for parameter in module.net.head.parameters())
    pooled = all(isinstance(source, FeatureBatches) and source.is_pooled for source in sources)
    return module.device.type == "cpu" and pooled and data.batch_size * weights <= ONE_CORE


def _steps_per_epoch(trainer: L.Trainer) -> int:
    return max(1, -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches))


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]} to {names[-2]} and {names[-1]}"


def _module(pl_module: L.LightningModule) -> ImageClassifier:
    assert isinstance(pl_module, ImageClassifier)
    return pl_module
