"""The callback that writes history.csv during a run."""

import math
import time
from typing import Any

import lightning.pytorch as L
import torch

from tlab.finetuning.run_state import RunState
from tlab.runs.directory import RunDirectory


class RunRecorder(L.Callback):
    """Writes one row per epoch: epoch, phase, metrics, learning rate per group, seconds, images per second.

    `seconds` of an epoch is all of the time since the one before, so it includes what its phase computed in advance
    and what was written; `images_per_second` is measured from the epoch's start to its last batch.

    It also decides which epoch is the best, for the checkpoint and for everything that is written of that epoch: of
    equals the one with the lower `val/loss`, since validation sets are small and ties in accuracy the rule; where
    that is equal too, the first.

    Args:
        run: The run's directory.
        state: The run's state; rows, seconds and the best epoch are written here.
        monitor: Metric that decides which epoch is the best.
        mode: `max` or `min`, whichever of its values is better.
    """

    def __init__(self, run: RunDirectory, state: RunState, monitor: str = "val/acc", mode: str = "max") -> None:
        self.run = run
        self.state = state
        self.monitor = monitor
        self.mode = mode
        self._lr: dict[str, float] = {}
        self._images = 0
        self._before = 0.0  # seconds between the last epoch's end and this one's start
        self._train_seconds = 0.0
        self._mark = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock; a run resumed inside an epoch has no epoch start."""
        self._mark = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the epoch."""
        self._before = self._lap()
        self._images, self._train_seconds, self._lr = 0, 0.0, {}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record the highest rate of the epoch for each group."""
        for group, rate in self.state.rates.items():
            self._lr[group] = max(rate, self._lr.get(group, 0.0))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count images and the time since the last batch."""
        if trainer.is_last_batch and pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)  # else the steps still under way would be free
        self._images += len(batch.index) * trainer.world_size
        self._train_seconds += self._lap()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the epoch's row."""
        train_seconds = max(self._train_seconds, 1e-9)
        seconds = self._before + train_seconds + self._lap()
        self.state.fit_seconds += seconds
        metrics = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(("train/", "val/")) and "/acc_class/" not in name
        }
        self.state.rows.append(
            {
                "epoch": trainer.current_epoch,
                "phase": self.state.phase.name,
                **dict(sorted(metrics.items())),
                **{f"lr/{group}": rate for group, rate in self._lr.items()},
                **self.state.solution,
                "seconds": round(seconds, 3),
                "images_per_second": round(self._images / train_seconds, 1),
            }
        )
        if self.state.best_epoch is None or self._badness(self.state.rows[-1]) < self._badness(self.state.best_row):
            self.state.best_epoch = trainer.current_epoch
        if trainer.is_global_zero:
            self.run.write_history(self.state.rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far, so that a resumed run has each epoch once, and the sums of the current epoch."""
        return {
            "rows": self.state.rows,
            "fit_seconds": self.state.fit_seconds,
            "best_epoch": self.state.best_epoch,
            "epoch": {
                "lr": self._lr,
                "images": self._images,
                "before": self._before,
                "train_seconds": self._train_seconds,
            },
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows and the sums."""
        self.state.rows = state_dict["rows"]
        self.state.fit_seconds = state_dict["fit_seconds"]
        if "best_epoch" in state_dict:
            self.state.best_epoch = state_dict["best_epoch"]
        elif self.state.rows:  # an earlier version, which kept the first of equals
            self.state.best_epoch = min(self.state.rows, key=lambda row: self._badness(row)[0])["epoch"]
        epoch = state_dict["epoch"]
        self._lr, self._images = epoch["lr"], epoch["images"]
        self._before, self._train_seconds = epoch.get("before", 0.0), epoch["train_seconds"]

    def _badness(self, row: dict[str, Any]) -> tuple[float, float]:
        """Return an epoch's sort key, least for the best: the monitored metric, signed by `mode`, and loss."""
        value, loss = row[self.monitor], row.get("val/loss", math.nan)
        value = -value if self.mode == "max" else value
        return math.inf if math.isnan(value) else value, math.inf if math.isnan(loss) else loss

    def count_seconds(self, seconds: float) -> None:
        """Count seconds that the current epoch took elsewhere, where several runs train at once; or fewer."""
        self._mark -= seconds

    def _lap(self) -> float:
        """Return the seconds since the last call."""
        before, self._mark = self._mark, time.perf_counter()
        return self._mark - before
