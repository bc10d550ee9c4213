"""The two checkpoints of a run, and early stopping, as callbacks that a run can be stopped and moved under."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from tlab.runs.directory import RunDirectory


class RunCheckpoint(ModelCheckpoint):
    """Writes one checkpoint at the end of each epoch, or of each best epoch.

    Lightning's own forgets which epoch was best when the directory has been moved; this one knows its directory.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state, with the paths of the checkpoint's directory as it is now."""
        here = Path(str(self.dirpath))
        moved = dict(state_dict)
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            moved[key] = str(here / Path(moved[key]).name) if moved.get(key) else ""
        best = moved["best_k_models"].items()
        moved["best_k_models"] = {str(here / Path(path).name): score for path, score in best}
        super().load_state_dict({**moved, "dirpath": self.dirpath})


class RunEarlyStopping(EarlyStopping):
    """Stops when the metric has not improved for `patience` epochs, also when the run was interrupted just then."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do not begin another epoch if a resumed run had stopped."""
        if self.stopped_epoch and self.wait_count >= self.patience:
            trainer.should_stop = True


def checkpoint_callbacks(run: RunDirectory, monitor: str, mode: str) -> list[L.Callback]:
    """Return the callbacks that write `best.ckpt` and `last.ckpt`.

    They are two, because `save_last` of one saves only the epochs that are the best so far; the best one comes
    first, so that the last checkpoint knows of it.
    """
    every_epoch: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    return [
        RunCheckpoint(run.checkpoints, run.best.stem, monitor=monitor, mode=mode, **every_epoch),
        RunCheckpoint(run.checkpoints, run.last.stem, **every_epoch),
    ]
