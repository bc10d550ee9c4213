"""The callback that writes history.csv while a run goes on."""

import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L

from tlab.runs.directory import RunDirectory


class RunRecorder(L.Callback):
    """Writes one row per epoch: epoch, phase, metrics, learning rate per group, seconds, images per second.

    Args:
        run: Where to write.
        phase: Returns the name of the phase in force.
        rates: Returns each group's learning rate as the next step will apply it.
    """

    def __init__(self, run: RunDirectory, phase: Callable[[], str], rates: Callable[[], dict[str, float]]) -> None:
        self.run = run
        self.read_phase = phase
        self.read_rates = rates
        self.rows: list[dict[str, Any]] = []
        self.fit_seconds = 0.0
        self._lr: dict[str, float] = {}
        self._images = 0
        self._train_seconds = 0.0
        self._started = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()
        self._images = 0
        self._lr = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count images; the time up to here is training, what follows the last batch is validation."""
        self._images += len(batch.image) * trainer.world_size
        self._train_seconds = time.perf_counter() - self._started

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the highest rate of the epoch for each group."""
        for group, rate in self.read_rates().items():
            self._lr[group] = max(rate, self._lr.get(group, 0.0))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the epoch's row."""
        seconds = time.perf_counter() - self._started
        self.fit_seconds += seconds
        metrics = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(("train/", "val/")) and "/acc_class/" not in name
        }
        self.rows.append(
            {
                "epoch": trainer.current_epoch,
                "phase": self.read_phase(),
                **dict(sorted(metrics.items())),
                **{f"lr/{group}": rate for group, rate in self._lr.items()},
                "seconds": round(seconds, 3),
                "images_per_second": round(self._images / max(self._train_seconds, 1e-9), 1),
            }
        )
        if trainer.is_global_zero:
            self.run.write_history(self.rows)

    def summary(self, monitor: str, mode: str) -> dict[str, float]:
        """Return the metrics of the epoch that is best in `monitor` (the first of equals, as the checkpoint is).

        Besides them `best_epoch` (from 0), `epochs` and `fit_seconds`.
        """
        best = (max if mode == "max" else min)(self.rows, key=lambda row: row[monitor])
        metrics = {name: value for name, value in best.items() if name.startswith(("train/", "val/"))}
        return {
            **metrics,
            "best_epoch": best["epoch"],
            "epochs": len(self.rows),
            "fit_seconds": round(self.fit_seconds, 3),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far, so that a resumed run has each epoch once."""
        return {"rows": self.rows, "fit_seconds": self.fit_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rows."""
        self.rows = state_dict["rows"]
        self.fit_seconds = state_dict["fit_seconds"]
