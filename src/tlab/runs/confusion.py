"""The callback that writes which classes were taken for which."""

from typing import Any

import lightning.pytorch as L
from torch import Tensor

from tlab.confusion_counts import ConfusionCounts
from tlab.finetuning.state import RunState
from tlab.runs.directory import RunDirectory


class ConfusionRecorder(ConfusionCounts):
    """Writes `confusion_val.csv` of the best epoch when the fit ends, and `confusion_test.csv` of a test.

    Args:
        run: Where to write.
        state: Knows the best epoch so far.
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
        self._write("test", self.counts_KK, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts of the best epoch, which a run that goes on may not see again."""
        return {"best": self._best_KK}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them up."""
        self._best_KK = state_dict["best"]

    def _write(self, split: str, counts_KK: Tensor | None, pl_module: L.LightningModule) -> None:
        if counts_KK is None:
            return
        classes: tuple[str, ...] = pl_module.classes  # type: ignore[assignment]
        rows = [
            {"label": classes[label], "prediction": classes[prediction], "count": int(counts_KK[label, prediction])}
            for label, prediction in counts_KK.nonzero().tolist()
        ]
        self.run.write_confusion(split, rows)
