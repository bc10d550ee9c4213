"""Which classes were taken for which, counted while a model is validated or tested."""

from typing import Any

import lightning.pytorch as L
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix


class ConfusionCounts(L.Callback):
    """Counts which classes are taken for which; the base of the callbacks that write or draw it.

    Of several in a trainer's list only the first counts; the others take its counts. The sanity check is left out.

    Attributes:
        counts_KK: Counts of the last validation or test (label, prediction), over all processes; None before it.
    """

    def __init__(self) -> None:
        self.counts_KK: Tensor | None = None
        self._metric: MulticlassConfusionMatrix | None = None  # while it counts

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting."""
        self._metric = None
        if not trainer.sanity_checking and self._counter(trainer) is self:
            metric = MulticlassConfusionMatrix(len(pl_module.classes), validate_args=False)  # type: ignore[arg-type]
            self._metric = metric.to(pl_module.device)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Count a batch."""
        if self._metric is not None:
            self._metric.update(outputs["logits"], batch.label)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sum over the processes."""
        if self._metric is not None:
            self.counts_KK, self._metric = self._metric.compute().cpu(), None
        self.counts_KK = self._counter(trainer).counts_KK

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As in validation."""
        ConfusionCounts.on_validation_epoch_start(self, trainer, pl_module)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """As in validation."""
        ConfusionCounts.on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As in validation."""
        ConfusionCounts.on_validation_epoch_end(self, trainer, pl_module)

    def _counter(self, trainer: L.Trainer) -> "ConfusionCounts":
        """Return the one that counts: Lightning calls callbacks in their order, so its counts are ready first."""
        others = trainer.callbacks  # type: ignore[attr-defined]
        return next(callback for callback in others if isinstance(callback, ConfusionCounts))
