"""The callbacks that count and write the confusion matrix."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from tlab.finetuning.run_state import RunState
from tlab.models.module import tested_split
from tlab.runs.directory import RunDirectory


class ConfusionCounts(L.Callback):
    """Counts the confusion matrix; the base of the callbacks that write or draw it.

    Of several in a trainer's list only the first counts; the others take its counts. The sanity check is left out.

    Attributes:
        counts_KK: Counts `K K` (int64; label, prediction) of the last validation or test; None before it.
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
        """Sum the counts over the processes."""
        if self._metric is not None:
            self.counts_KK, self._metric = self._metric.compute().cpu(), None
        self.counts_KK = self._counter(trainer).counts_KK

    # a test is counted alike
    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def _counter(self, trainer: L.Trainer) -> "ConfusionCounts":
        """Return the one that counts: Lightning calls callbacks in their order, so its counts are ready first."""
        others = trainer.callbacks  # type: ignore[attr-defined]
        return next(callback for callback in others if isinstance(callback, ConfusionCounts))


class ConfusionRecorder(ConfusionCounts):
    """Writes `confusion_val.csv` of the best epoch when the fit ends, and `confusion_test.csv` of a test.

    Of a further test it is `confusion_test_NAME.csv`.

    Args:
        run: The run's directory.
        state: The run's state, with the best epoch so far.
    """

    def __init__(self, run: RunDirectory, state: RunState) -> None:
        super().__init__()
        self.run = run
        self.state = state
        self._best_KK: Tensor | None = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the validation's counts if this epoch is the best so far."""
        if self.state.best_epoch == trainer.current_epoch:
            self._best_KK = self.counts_KK

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the best epoch's counts."""
        self._write("val", self._best_KK, pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the test's counts."""
        super().on_test_epoch_end(trainer, pl_module)
        self._write(tested_split(trainer).replace("/", "_"), self.counts_KK, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts of the best epoch, which a resumed run may not see again."""
        return {"best": self._best_KK}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts of the best epoch."""
        self._best_KK = state_dict["best"]

    def _write(self, split: str, counts_KK: Tensor | None, pl_module: L.LightningModule) -> None:
        if counts_KK is None:
            return
        write_counts(self.run, split, counts_KK, pl_module.classes)  # type: ignore[arg-type]


def write_counts(run: RunDirectory, split: str, counts_KK: Tensor, classes: Sequence[str]) -> None:
    """Write counts `K K` (label, prediction) as `confusion_<split>.csv`."""
    rows = [
        {"label": classes[label], "prediction": classes[prediction], "count": int(counts_KK[label, prediction])}
        for label, prediction in counts_KK.nonzero().tolist()
    ]
    run.write_confusion(split, rows)
