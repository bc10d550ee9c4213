"""Which classes are taken for which."""

import time
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from tlab.dashboards.board import add_figure, class_names, collects, writer
from tlab.dashboards.figures import confusion_figure

FREQUENT_UP_TO = 20  # classes up to which drawing takes a fraction of a second


class ConfusionMatrix(L.Callback):
    """Draws the confusion matrix: `val/confusion` of the last validation epoch, `test/confusion` of a test.

    Up to 20 classes earlier epochs are drawn too, when enough time has passed for the drawing not to matter.

    Args:
        every_seconds: Least time between two drawings in a fit, in seconds.
    """

    def __init__(self, every_seconds: float = 20.0) -> None:
        self.every_seconds = every_seconds
        self._metric: MulticlassConfusionMatrix | None = None
        self._latest: tuple[Tensor, str, int] | None = None  # counts K K, title, step; not yet drawn
        self._drawn_at = 0.0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._latest, self._drawn_at = None, time.monotonic()

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting."""
        self._metric = None
        if collects(trainer):
            metric = MulticlassConfusionMatrix(len(class_names(pl_module)), validate_args=False)
            self._metric = metric.to(pl_module.device)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Count a batch."""
        if self._metric is not None:
            self._metric.update(outputs["logits"], batch.label)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the counts, and draw them if it is time."""
        self._finish(trainer, f"Validation, epoch {trainer.current_epoch + 1}")
        frequent = len(class_names(pl_module)) <= FREQUENT_UP_TO
        due = time.monotonic() - self._drawn_at >= self.every_seconds
        if trainer.state.fn != TrainerFn.FITTING or (frequent and due):
            self._draw(trainer, pl_module, "val/confusion")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the last validation epoch."""
        self._draw(trainer, pl_module, "val/confusion")

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As in validation."""
        self.on_validation_epoch_start(trainer, pl_module)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """As in validation."""
        self.on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the test split."""
        self._finish(trainer, "Test")
        self._draw(trainer, pl_module, "test/confusion")

    def _finish(self, trainer: L.Trainer, title: str) -> None:
        if self._metric is not None:
            self._latest = (self._metric.compute().cpu(), title, trainer.global_step)
            self._metric = None

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule, tag: str) -> None:
        board = writer(trainer)
        if board is not None and self._latest is not None:
            counts_KK, title, step = self._latest
            add_figure(board, tag, confusion_figure(counts_KK, class_names(pl_module), title), step)
            self._drawn_at = time.monotonic()
        self._latest = None
