"""The callbacks that collect a split's logits, and fit the temperature of the best epoch."""

from typing import Any

import lightning.pytorch as L

from tlab.finetuning.run_state import RunState
from tlab.models.calibration.collected_logits import CollectedLogits
from tlab.models.calibration.temperature import every_of, fit_temperature


class LogitCollector(L.Callback):
    """Collects the logits of a test.

    Attributes:
        logits: Those of the last test.
    """

    def __init__(self) -> None:
        self.logits = CollectedLogits()

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew."""
        self.logits = CollectedLogits()

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Add a batch."""
        self.logits.add(outputs["logits"], batch.label, batch.index)


class TemperatureScaling(L.Callback):
    """Fits a temperature on the validation logits of each epoch that is the best so far, for the checkpoints.

    The logits are those that validation computes anyway, so it takes milliseconds. Every checkpoint with the
    weights of the best epoch has the temperature of these weights; others have none.

    Args:
        state: The run's state, with the best epoch so far.
    """

    def __init__(self, state: RunState) -> None:
        self.state = state
        self._fitted: dict[str, Any] = {}
        self._fitted_epoch = -1
        self._logits = CollectedLogits()

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew."""
        images = len(trainer.datamodule.samples("val"))  # type: ignore[attr-defined]
        self._logits = CollectedLogits(every_of(images, len(pl_module.classes)))  # type: ignore[arg-type]

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Add a batch."""
        self._logits.add(outputs["logits"], batch.label, batch.index)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fit, if this epoch is the best so far; all processes answer alike."""
        if trainer.strategy.reduce_boolean_decision(self.state.best_epoch == trainer.current_epoch):
            self._fitted = fit_temperature(*self._logits.arrays_of_all_processes())
            self._fitted_epoch = trainer.current_epoch

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the temperature to what the checkpoint says of its weights, if it is that of these weights."""
        if self._fitted_epoch == trainer.current_epoch:
            checkpoint.setdefault("tlab", {}).update(self._fitted)
