"""The callback that lists images that turn out to be unreadable while they are used."""

import logging
from pathlib import Path

import lightning.pytorch as L

from tlab.core.processes import first_process, from_all_processes
from tlab.core.text import as_text, counted
from tlab.data.datamodule import ImageDataModule
from tlab.data.sources.verify import Unreadable, by_reason
from tlab.runs.directory import RunDirectory

log = logging.getLogger(__name__)


class SkippedImages(L.Callback):
    """Says at the end of an epoch or a test which images were skipped in it, and lists them in `unreadable.csv`.

    Args:
        run: The run's directory; None lists them nowhere.
        data: The data; None: those of the trainer.
    """

    def __init__(self, run: RunDirectory | None = None, data: ImageDataModule | None = None) -> None:
        self.run, self.data = run, data
        self._told: set[str] = set()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """List those of training and validation."""
        self._tell(self.data or trainer.datamodule)  # type: ignore[attr-defined]

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """List those of a test."""
        self._tell(self.data or trainer.datamodule)  # type: ignore[attr-defined]

    def _tell(self, data: ImageDataModule) -> None:
        for found in from_all_processes(data.skipped):
            data.skipped |= found
        known = {*self._told, *(self.run.unreadable() if self.run is not None and len(data.skipped) else ())}
        new = [
            Unreadable(Path(file), reason) for file, reason in data.skipped.items() if as_text(file) not in known
        ]
        if not new:
            return
        self._told |= set(map(as_text, data.skipped))
        if first_process():
            what = f"{counted(new, 'image', 'images')} skipped, which cannot be read"
            log.warning("%s: %s", what, by_reason(new, data.index.relative))
        if self.run is not None:
            before = (Unreadable(Path(file), reason) for file, reason in self.run.unreadable().items())
            self.run.write_unreadable([*before, *new])
