"""Curves that the module does not log itself: rates, gradient norm, speed and phase."""

import time
from typing import Any

import lightning.pytorch as L
import torch
from torch.optim import Optimizer

from tlab.dashboards.board import writer


class Scalars(L.Callback):
    """Draws what training does besides learning.

    Every `trainer.log_every_n_steps` optimiser steps and in the first step of an epoch: `lr/<group>`, the rate that
    the step applies (from the callback that has `rates`), and `train/grad_norm`, the 2-norm over all trainable
    parameters before clipping. Every epoch: `train/phase`, counted from 0, and `speed/train_images_per_second`.

    Attributes:
        images_per_second: Of the last training epoch over all processes, loading included, validation and
            checkpoints left out; measured with and without TensorBoard. 0 before the first epoch's end.
    """

    def __init__(self) -> None:
        self.images_per_second = 0.0
        self._images = 0
        self._seconds = 0.0
        self._mark = 0.0
        self._drawn_step = -1

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._images, self._seconds, self._mark = 0, 0.0, time.perf_counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draw the rates; inside the optimiser's step they would be scaled already."""
        step = trainer.global_step
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        due = batch_idx == 0 or (step % every == 0 and step != self._drawn_step)
        self._drawn_step = step if due else self._drawn_step
        board = writer(trainer) if due else None
        if board is None:
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, "rates"):
                for group, rate in callback.rates().items():
                    board.add_scalar(f"lr/{group}", rate, step)
                if batch_idx == 0:
                    board.add_scalar("train/phase", callback.plan.phases.index(callback.phase), step)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Draw the gradient norm in the steps whose rates are drawn."""
        board = writer(trainer) if trainer.global_step == self._drawn_step else None
        if board is None:
            return
        gradients = [
            parameter.grad
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        board.add_scalar("train/grad_norm", torch.nn.utils.get_total_norm(gradients), trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the time since the last batch; what follows the last batch of an epoch is not counted."""
        if trainer.is_last_batch and pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)  # else the steps still under way would be free
        now = time.perf_counter()
        self._images += len(batch.index) * trainer.world_size
        self._seconds, self._mark = self._seconds + now - self._mark, now

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the validation just done out of the training time."""
        self._mark = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the speed."""
        self.images_per_second = self._images / self._seconds if self._seconds else 0.0
        if (board := writer(trainer)) is not None:
            board.add_scalar("speed/train_images_per_second", self.images_per_second, trainer.global_step)
