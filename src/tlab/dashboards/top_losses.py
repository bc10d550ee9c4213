"""The validation images that the network gets most wrong."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from tlab.core.text import as_text
from tlab.dashboards.figures import caption_characters, shorten, tile_figure
from tlab.dashboards.tensorboard import add_photos, collects, writer
from tlab.data.sampler import SampleKey

TILE_INCHES = 1.6

Worst = tuple[Tensor, Tensor, Tensor]  # loss `N`, index `N`, logits `N K`


class TopLosses(L.Callback):
    """Draws `val/top_losses` when the fit ends: the images of the last validation epoch with the highest loss.

    Above each: the true class with its probability, the predicted class with its own, the file. While validating
    only losses, indices and logits of the `images` worst so far are kept; the images are read again to be drawn.

    Args:
        images: Number of images; 0 draws nothing.
    """

    def __init__(self, images: int = 16) -> None:
        self.images = images
        self._worst: Worst | None = None  # by loss, descending
        self._title = ""

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the epoch before."""
        self._worst = None

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Keep the worst so far, on the device, so that nothing waits for it."""
        if not (self.images and collects(trainer)):
            return
        new = (outputs["losses"].float(), batch.index, outputs["logits"].float())
        self._keep_worst([self._worst, new])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Bring the worst of all processes together."""
        self._title = f"Highest losses in validation, epoch {trainer.current_epoch + 1}"
        if self.images and collects(trainer) and trainer.world_size > 1:
            mine = [part.cpu() for part in self._worst] if self._worst else None
            everyone: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(everyone, mine)  # processes may hold different numbers, or none
            self._keep_worst(everyone)

    def _keep_worst(self, parts: Sequence[Worst | None]) -> None:
        losses, index, logits = (torch.cat(each) for each in zip(*filter(None, parts), strict=True))
        order = losses.topk(min(self.images, len(losses))).indices
        self._worst = (losses[order], index[order], logits[order])

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the images again and draw them."""
        board = writer(trainer)
        data = getattr(trainer, "datamodule", None)
        if board is None or data is None or self._worst is None:
            return
        losses, index, logits = (part.cpu() for part in self._worst)
        samples = data.index.splits["val"]
        batch = data.loader("val").images.batch([SampleKey(0, i) for i in index.tolist()])
        there = set(batch.index.tolist())  # without those that cannot be read any more
        captions = [
            _caption(loss, row.softmax(0), samples[i].label, as_text(samples[i].path.name), data.classes)
            for loss, row, i in zip(losses.tolist(), logits, index.tolist(), strict=True)
            if i in there
        ]
        if not captions:
            return
        figure = tile_figure(list(batch.image), captions, self._title, 8, tile_inches=TILE_INCHES)
        add_photos(board, "val/top_losses", figure, trainer.global_step)


def _caption(loss: float, probabilities_K: Tensor, label: int, file: str, classes: tuple[str, ...]) -> str:
    predicted = int(probabilities_K.argmax())
    room = caption_characters(TILE_INCHES)
    lines = [
        f"{what} {shorten(classes[k], room - len(what) - 7)} {float(probabilities_K[k]):.1%}"
        for what, k in (("true", label), ("predicted", predicted))
    ]
    return "\n".join([*lines, shorten(file, room), f"loss {loss:.2f}"])
