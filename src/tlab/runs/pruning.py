"""The callback that ends a run which its pruner rejects."""

from typing import Protocol

import lightning.pytorch as L

from tlab.core.processes import from_first_process


class Pruner(Protocol):
    """Takes a run's metric after every epoch and decides whether to prune the run."""

    def should_prune(self, epoch: int, value: float) -> bool:
        """Record `value` of `epoch` (from 0), once if given repeatedly, and tell whether the run should end."""

    def was_pruned(self) -> bool:
        """Tell whether the run should end by what has been recorded so far, before another epoch."""


class Pruning(L.Callback):
    """Gives a pruner the monitored metric of every validation epoch and ends the run when it says so.

    The run ends as it does at its last epoch, with its checkpoints written. A resumed run asks first, in case it
    was killed after the pruner had decided. Of several processes the first one asks for all.

    Args:
        monitor: Name of the metric, as in `checkpoint.monitor`.
        pruner: The pruner; pickled where a run has several processes.

    Attributes:
        pruned: Whether the run was ended.
    """

    def __init__(self, monitor: str, pruner: Pruner) -> None:
        self.monitor = monitor
        self.pruner = pruner
        self.pruned = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Train no further epoch if the pruner had decided to end the run, of which the first epoch is kept."""
        if trainer.current_epoch > 0 and not trainer.should_stop and from_first_process(self.pruner.was_pruned):
            self._end(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the pruner the epoch's value; a run that ends anyway is not pruned."""
        epoch, value = trainer.current_epoch, float(trainer.callback_metrics[self.monitor])
        ends = trainer.should_stop or epoch + 1 == trainer.max_epochs
        if from_first_process(lambda: self.pruner.should_prune(epoch, value)) and not ends:
            self._end(trainer)

    def _end(self, trainer: L.Trainer) -> None:
        self.pruned = trainer.should_stop = True
