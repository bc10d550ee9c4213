"""Dropout's randomness as a function of the seed, the epoch and the batch."""

from typing import Any

import lightning.pytorch as L
import torch

from tlab.data.sampler import addressed_seed


class AddressedRandomness(L.Callback):
    """Seeds torch before each training batch, so that a resumed run draws the same as an uninterrupted one.

    Augmentation is seeded by itself (see `tlab.data.sampler`); what is left is dropout and stochastic depth.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the generators of the CPU and of the device in use."""
        seed = addressed_seed(self.seed, "dropout", trainer.current_epoch, batch_idx, trainer.global_rank)
        # `torch.manual_seed` would also queue a call with a traceback for every accelerator that is not in use
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type != "cpu":
            torch.get_device_module(pl_module.device).manual_seed(seed)
