"""The confusion matrix in TensorBoard."""

import time

import lightning.pytorch as L
from lightning.pytorch.trainer.states import TrainerFn

from tlab.dashboards.figures import confusion_figure
from tlab.dashboards.tensorboard import add_drawing, class_names, writer
from tlab.models.module import tested_split
from tlab.runs.confusion import ConfusionCounts

FREQUENT_UP_TO = 20  # classes up to which drawing takes a fraction of a second
EVERY_SECONDS = 20.0  # least time between two drawings in a fit


class ConfusionMatrix(ConfusionCounts):
    """Draws the confusion matrix: `val/confusion` of the last validation epoch, `test/confusion` of a test.

    With up to 20 classes, earlier epochs are drawn too, where enough time has passed for the drawing not to matter.
    """

    def __init__(self) -> None:
        super().__init__()
        self._latest: tuple[str, int] | None = None  # title and step of the counts; None once they are drawn
        self._drawn_at = 0.0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._latest, self._drawn_at = None, time.monotonic()

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the counts, and draw them if it is time."""
        super().on_validation_epoch_end(trainer, pl_module)
        self._latest = f"Validation, epoch {trainer.current_epoch + 1}", trainer.global_step
        frequent = len(class_names(pl_module)) <= FREQUENT_UP_TO
        due = time.monotonic() - self._drawn_at >= EVERY_SECONDS
        if trainer.state.fn != TrainerFn.FITTING or (frequent and due):
            self._draw(trainer, pl_module, "val/confusion")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the last validation epoch."""
        self._draw(trainer, pl_module, "val/confusion")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the test split."""
        super().on_test_epoch_end(trainer, pl_module)
        split = tested_split(trainer)
        self._latest = split.capitalize(), trainer.global_step
        self._draw(trainer, pl_module, f"{split}/confusion")

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule, tag: str) -> None:
        board = writer(trainer)
        if board is not None and self._latest is not None and self.counts_KK is not None:
            title, step = self._latest
            add_drawing(board, tag, confusion_figure(self.counts_KK, class_names(pl_module), title), step)
            self._drawn_at = time.monotonic()
        self._latest = None
