"""The callback that counts the tested images that a network does not know."""

from typing import Any

import lightning.pytorch as L
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from tlab.models.module import network
from tlab.models.uncertainty.uncertainty import Uncertainty


class UnknownImages(L.Callback):
    """Counts the images of a test that are not like those of training.

    Args:
        uncertainty: What the network knows.

    Attributes:
        share: Share of unknown images in the last test.
    """

    share: float

    def __init__(self, uncertainty: Uncertainty) -> None:
        self.uncertainty = uncertainty
        self._features: Tensor
        self._hook: RemovableHandle
        self._known: list[bool] = []

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the pooled features on their way through the head."""
        self._known = []
        self._hook = network(pl_module).head.register_forward_pre_hook(self._keep)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Count a batch."""
        self._known += self.uncertainty.known(self._features).tolist()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sum up."""
        self._hook.remove()
        self.share = self._known.count(False) / len(self._known)

    def _keep(self, head: Any, inputs: tuple[Tensor, ...]) -> None:
        self._features = head.pool(inputs[0])
