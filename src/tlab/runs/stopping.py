"""Ctrl-C, SIGTERM and a cluster's warnings: a run saves where it stands before it stops."""

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn

import lightning.pytorch as L
from lightning.pytorch.callbacks import Checkpoint

from tlab.runs.checkpoints import LastCheckpoint, between_steps
from tlab.signals import STOPPING


class GracefulStop(Checkpoint):
    """Lets the first signal of `tlab.signals` end a run after the step it is in, and after a checkpoint.

    A context manager around the whole run, and the last one of its callbacks. Before and after training a signal
    ends the run at once; a second one always does. In validation the epoch is finished first. The exit code is
    128 + the signal, as in shells.

    Args:
        last: Writes the checkpoint.
    """

    def __init__(self, last: LastCheckpoint) -> None:
        self.last = last
        self.received: int | None = None
        self._training = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "GracefulStop":
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            self._handlers = {number: signal.getsignal(number) for number in STOPPING}
            self._listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen again: Lightning has set handlers of its own."""
        self._training = True
        if self._handlers:
            self._listen()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop, between two optimiser steps; after the last batch the end of the epoch does."""
        if between_steps(trainer, batch_idx) and self._asked(trainer):
            self.last.save(trainer)
            self._stop()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, if this epoch has no checkpoint yet, and stop."""
        if self._asked(trainer):
            self.last.save_epoch(trainer)
            self._stop()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on a signal ends the run at once."""
        self._training = False

    def _listen(self) -> None:
        for number in STOPPING:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received is not None, number
        if again or not self._training:
            self._stop()
        print("tlab: stopping after this step (once more: at once)", file=sys.stderr, flush=True)

    def _asked(self, trainer: L.Trainer) -> bool:
        """Tell whether any process has received a signal; all of them must answer alike."""
        mine = self.received is not None
        return mine if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(mine, all=False)

    def _stop(self) -> NoReturn:
        raise SystemExit(128 + (self.received or signal.SIGTERM))
