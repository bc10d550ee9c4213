"""A run whose head has trained in a joint pass: Lightning's loop, in which an epoch's steps are already done."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch import Tensor

from tlab.data.batch import Batch
from tlab.data.loader import Loader
from tlab.data.sampler import EpochSampler
from tlab.finetuning.many_heads.joint_training import HeadEpoch
from tlab.models.module import ImageClassifier


class RecordedEpochs(_TrainingEpochLoop):
    """Takes the steps of each epoch from a record, where there is one; without one, trains as ever.

    Callbacks see every step: rates, schedules, counts and curves are those of training. What a step computes is
    left out; the head, the optimizer's state and the epoch's loss and accuracy are set after the last one. Between
    two steps there is no state that could be saved, so the callbacks that save are not asked there.

    Args:
        trainer: The run's trainer, which gets this loop.
        find: Returns the record of the epochs, when the first one is about to train; empty where there is none.
        count_seconds: Adds to the seconds of the current epoch.
    """

    def __init__(
        self, trainer: L.Trainer, find: Callable[[], Sequence[HeadEpoch]], count_seconds: Callable[[float], None]
    ) -> None:
        super().__init__(trainer, trainer.fit_loop.epoch_loop.min_steps, trainer.fit_loop.epoch_loop.max_steps)
        self.find = find
        self.count_seconds = count_seconds
        self.recorded: Sequence[HeadEpoch] | None = None
        trainer.fit_loop.epoch_loop = self

    def advance(self, data_fetcher: Any) -> None:
        """Take the steps of a recorded epoch, or train a batch."""
        if self.recorded is None:
            self.recorded = self.find()
        epoch = self.trainer.current_epoch
        if epoch < len(self.recorded):
            self._take_steps(self.recorded[epoch])
        else:
            super().advance(data_fetcher)

    def _take_steps(self, epoch: HeadEpoch) -> None:
        trainer, module = self.trainer, self.trainer.lightning_module
        assert isinstance(module, ImageClassifier)
        loader = trainer.train_dataloader
        assert isinstance(loader, Loader)
        loader.pass_over()
        assert isinstance(loader.sampler, EpochSampler)
        steps, images, size = len(epoch.gradient_norms), len(loader.sampler), loader.sampler.batch_size
        whole, last = _batch_of(size), _batch_of(images - size * (steps - 1))
        starts, befores, ends = (
            self._hooks(name) for name in ("on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end")
        )
        progress, optimizer = self.automatic_optimization.optim_progress.optimizer, trainer.optimizers[0]
        parameter = module.net.head.linear.weight
        gradient = torch.zeros_like(parameter)
        for number, norm in enumerate(epoch.gradient_norms):
            self.batch_progress.is_last_batch = number + 1 == steps
            batch = last if self.batch_progress.is_last_batch else whole
            self.batch_progress.increment_ready()
            for hook in starts:
                hook(trainer, module, batch, number)
            self.batch_progress.increment_started()
            progress.zero_grad.increment_ready()
            progress.zero_grad.increment_started()
            progress.zero_grad.increment_completed()
            progress.step.increment_ready()
            gradient.view(-1)[0] = norm  # of a gradient only its norm is looked at
            parameter.grad = gradient
            for hook in befores:
                hook(trainer, module, optimizer)
            parameter.grad = None
            optimizer.step()  # for the schedule that is hooked into it
            progress.step.increment_completed()
            self.batch_progress.increment_processed()
            if self.batch_progress.is_last_batch:
                self._set_result(module, epoch, last, images)
            for hook in ends:
                hook(trainer, module, {}, batch, number)
            self.batch_progress.increment_completed()
        self._batches_that_stepped += steps - 1  # Lightning counts one when this has returned

    def _set_result(self, module: ImageClassifier, epoch: HeadEpoch, last: Batch, images: int) -> None:
        """Set the head and its optimizer's state, and log the epoch's loss and accuracy."""
        head, optimizer = module.net.head, self.trainer.optimizers[0]
        head.load_state_dict(epoch.head)
        for parameter, state in zip(head.parameters(), epoch.optimizer, strict=True):
            optimizer.state[parameter] = dict(state)
        module.train_loss.mean_value, module.train_loss.weight = (
            torch.tensor(epoch.loss),
            torch.tensor(float(images)),
        )
        hits = torch.arange(images) < epoch.correct
        module.train_acc.update(hits.long(), torch.ones(images, dtype=torch.long))
        for metric in (module.train_loss, module.train_acc):
            metric._update_count = len(epoch.gradient_norms)
        connector: Any = self.trainer._logger_connector
        connector.on_batch_start(last)
        module._current_fx_name = "training_step"
        module.log_training(len(last.image))
        module._current_fx_name = None
        connector.on_batch_end()
        self.count_seconds(epoch.seconds)

    def _hooks(self, name: str) -> list[Callable[..., None]]:
        """Return what the callbacks do at a point of a step, without those that save."""
        callbacks: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        does = [each for each in callbacks if getattr(type(each), name) is not getattr(L.Callback, name)]
        return [getattr(each, name) for each in does if not isinstance(each, Checkpoint)]


def _batch_of(size: int) -> Batch:
    """Return a batch of which only the size is known."""
    nothing: Tensor = torch.empty(size, 0)
    return Batch(nothing, torch.zeros(size, dtype=torch.int64), torch.arange(size), "pool")
