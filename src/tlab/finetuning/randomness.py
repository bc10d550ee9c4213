"""Dropout's randomness as a function of the seed and the epoch."""

import lightning.pytorch as L
import torch

from tlab.data.order import addressed_seed


class AddressedRandomness(L.Callback):
    """Seeds torch at the start of each training epoch, so that a resumed run draws what the whole one would.

    The images have addresses of their own (see `tlab.data.order`); what is left is dropout and stochastic depth.

    Args:
        seed: Seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Seed the CPU's and the accelerators' generators."""
        torch.manual_seed(addressed_seed(self.seed, "dropout", trainer.current_epoch, trainer.global_rank))
