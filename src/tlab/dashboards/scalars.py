"""Curves that the module does not log itself: rates, gradient norm, speed and phase."""

from typing import Any

import lightning.pytorch as L
import torch
from torch.optim import Optimizer

from tlab.dashboards.tensorboard import writer
from tlab.finetuning.run_state import RunState


class Scalars(L.Callback):
    """Draws learning rates, gradient norm, phase and speed.

    Every `trainer.log_every_n_steps` optimizer steps and in the first step of an epoch: `lr/<group>`, the rate that
    the step applies, and `train/grad_norm`, the 2-norm over all trainable parameters before clipping. Every epoch:
    `train/phase`, counted from 0, and `speed/train_images_per_second`.

    Args:
        state: The run's state.
    """

    def __init__(self, state: RunState) -> None:
        self.state = state
        self._drawn_step = -1

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draw the rates; inside the optimizer's step they would be scaled already."""
        step = trainer.global_step
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if batch_idx > 0 and (step % every or step == self._drawn_step):
            return
        self._drawn_step = step
        if (board := writer(trainer)) is None:
            return
        for group, rate in self.state.rates.items():
            board.add_scalar(f"lr/{group}", rate, step)
        if batch_idx == 0:
            board.add_scalar("train/phase", self.state.plan.phases.index(self.state.phase), step)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Draw the gradient norm in the steps whose rates are drawn."""
        board = writer(trainer) if trainer.global_step == self._drawn_step else None
        if board is not None:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            board.add_scalar("train/grad_norm", torch.nn.utils.get_total_norm(gradients), trainer.global_step)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the speed."""
        if (board := writer(trainer)) is not None:
            speed = self.state.rows[-1]["images_per_second"]
            board.add_scalar("speed/train_images_per_second", speed, trainer.global_step)


class ConfigText(L.Callback):
    """Writes the configuration as the text `config` when the fit starts.

    Args:
        text: The configuration as YAML.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write it as a block of code."""
        if (board := writer(trainer)) is not None:
            board.add_text("config", f"```yaml\n{self.text.rstrip()}\n```", 0)
