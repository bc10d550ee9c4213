"""Ctrl-C, SIGTERM, a closed terminal and a cluster's warnings: a run saves a checkpoint before it stops."""

import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, NoReturn

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from tlab.core.signals import STOPPING
from tlab.runs.checkpoints import LastCheckpoint, between_steps

EVERY_SECONDS = 1.0  # approximate time between two exchanges about whether any process is to stop
MOST_STEPS = 100  # between two such exchanges: steps may become slower meanwhile


class StopSignals:
    """Handles the signals of `tlab.core.signals` for as long as a run lasts: `with StopSignals() as signals:`.

    A signal ends the run at once, but while it trains the first one is only recorded, for `GracefulStop` to save
    first. One that nothing has obeyed by the end of the block ends the process there: it was meant for more than
    this run. The exit code is 128 + the signal, as in shells.

    Attributes:
        received: Number of the signal that has come; None before.
        training: Whether the run trains now.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.training = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            self._handlers = {number: signal.getsignal(number) for number in STOPPING}
            self.listen()
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if kind is None and self.received is not None:
            self.stop()

    def listen(self) -> None:
        """Set the handlers, also again where others have replaced them."""
        for number in self._handlers:
            signal.signal(number, self._receive)

    def stop(self) -> NoReturn:
        """End the run."""
        raise SystemExit(128 + (self.received or signal.SIGTERM))

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received is not None, number
        if again or not self.training:
            self.stop()
        print("tlab: stopping after this step (once more: at once)", file=sys.stderr, flush=True)


class GracefulStop(Checkpoint):
    """Ends a run after the step in which the first signal has come, and after a checkpoint.

    In validation the epoch is finished first. A second signal ends the run at once.

    Several processes stop after the same step, whichever of them the signal has reached. They ask each other about
    once a second, since an exchange in every step would keep each GPU waiting for all others.

    Args:
        signals: The signals received.
        last: The callback that writes the checkpoint.
    """

    def __init__(self, signals: StopSignals, last: LastCheckpoint) -> None:
        self.signals = signals
        self.last = last
        self._measure_anew()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen again: Lightning has set handlers of its own."""
        self.signals.training = True
        self.signals.listen()
        self._measure_anew()  # a run resumed inside an epoch has no epoch start

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask early in the epoch: with another phase its steps may take another time."""
        self._measure_anew()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop, between two optimizer steps; after the last batch the end of the epoch does."""
        if between_steps(trainer, batch_idx) and self._asked_after_step(trainer):
            self.last.save(trainer)
            self.signals.stop()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, if this epoch has no checkpoint yet, and stop."""
        if self._asked(trainer):
            self.last.save_epoch(trainer)
            self.signals.stop()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop if a signal has come since the last epoch's end; from here on one ends the run at once."""
        self.signals.training = False
        if self._asked(trainer):
            self.signals.stop()

    def _measure_anew(self) -> None:
        """Ask after the next step, and the one after it, by which time the first one's length is known."""
        self._interval = self._left = self._proposal = 1  # steps
        self._since = time.monotonic()

    def _asked_after_step(self, trainer: L.Trainer) -> bool:
        """Tell whether any process has received a signal, if it is time to ask; all count the same steps."""
        self._left -= 1
        return (self._left <= 0 or trainer.world_size == 1) and self._asked(trainer)

    def _asked(self, trainer: L.Trainer) -> bool:
        """Tell whether any process has received a signal; all of them answer alike.

        In the same exchange the first process says after how many steps they ask again. It goes by the last but one
        interval, from answer to answer: only an answer waits for all that a GPU has been given to do.
        """
        mine = int(self.signals.received is not None)
        if trainer.world_size == 1:
            return bool(mine)
        proposal = self._proposal if trainer.is_global_zero else 0
        words = torch.tensor([mine, proposal], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(words, torch.distributed.ReduceOp.MAX)
        anybody, steps = words.tolist()
        now = time.monotonic()
        wanted = EVERY_SECONDS * self._interval / max(now - self._since, 1e-6)
        self._proposal = min(max(1, int(wanted)), MOST_STEPS)
        self._interval = self._left = steps
        self._since = now
        return bool(anybody)
