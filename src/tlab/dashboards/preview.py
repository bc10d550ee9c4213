"""Preview of the training images as the network gets them."""

import time
from itertools import islice
from typing import Any

import lightning.pytorch as L
import numpy as np
from torch import Tensor

from tlab.dashboards.figures import caption_characters, shorten, tile_figure
from tlab.dashboards.tensorboard import add_photos, writer
from tlab.data.image_batches import ImageBatches
from tlab.data.sampler import SampleKey

TILE_INCHES = 1.5
DRAWN_AFTER = 5.0  # seconds


class AugmentationPreview(L.Callback):
    """Draws training images as the network gets them, a few seconds after the fit has started.

    `preview/batch` is the start of the first batch, augmented and mixed, with its labels; `preview/views` has one
    image in each row: as evaluation sees it, then, where it is augmented, as the first epochs will. Both are made
    by the dataset from addresses (epoch, index), so they are what training will use, and drawing them changes no
    random stream.

    Args:
        images: Number of images of the batch; a quarter as many have a row of views. 0 draws nothing.
        views: Number of epochs shown in each row.
    """

    def __init__(self, images: int = 16, views: int = 4) -> None:
        self.images = images
        self.views = views
        self._keys: list[SampleKey] = []  # keys of the batch; empty once it is drawn
        self._augmented: ImageBatches | None = None  # the images of the first phase
        self._started = 0.0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record which images come first; drawing them now would delay the start."""
        data = getattr(trainer, "datamodule", None)
        self._keys, self._started = [], time.monotonic()
        if writer(trainer) is not None and data is not None:
            loader = data.train_dataloader()
            self._keys, self._augmented = list(islice(loader.sampler, self.images)), loader.images

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw both figures once the run has trained for a few seconds."""
        if self._keys and time.monotonic() - self._started >= DRAWN_AFTER:
            self._draw(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw both figures of a run that was shorter than that."""
        if self._keys:
            self._draw(trainer)

    def _draw(self, trainer: L.Trainer) -> None:
        keys, self._keys = self._keys, []
        board, data = writer(trainer), trainer.datamodule  # type: ignore[attr-defined]
        assert board is not None
        assert self._augmented is not None
        first = self._augmented.batch(keys)
        images, labels = list(first.image), list(first.label)
        captions = [label_caption(label, data.classes) for label in labels]
        batch = tile_figure(images, captions, "First training batch", 8, tile_inches=TILE_INCHES)
        views = self._views(self._augmented, data.loader("train").images, data.classes)
        # Only after all images are read: the board's own thread would keep the reading ones waiting
        add_photos(board, "preview/batch", batch, 0)
        add_photos(board, "preview/views", views, 0)

    def _views(self, augmented: ImageBatches, plain: ImageBatches, classes: tuple[str, ...]) -> np.ndarray:
        rows = min(len(augmented), -(-self.images // 4))
        chosen = [row * len(augmented) // rows for row in range(rows)]
        before = plain.batch([SampleKey(0, index) for index in chosen])
        views = 0 if augmented.is_fixed else self.views  # all epochs would show the same
        keys = [SampleKey(epoch, index) for index in chosen for epoch in range(views)]
        after = list(augmented.batch(keys).image) if views else []
        tiles: list[Tensor] = []
        captions: list[str] = []
        for image, label, index in zip(before.image, before.label, before.index.tolist(), strict=True):
            row = chosen.index(index)  # one that cannot be read is left out
            tiles += [image, *after[row * views : (row + 1) * views]]
            captions += [label_caption(label, classes), *[""] * views]
        headers = ["evaluation", *(f"epoch {epoch + 1}" for epoch in range(views))]
        return tile_figure(tiles, captions, "Augmentation", len(headers), headers, TILE_INCHES)


def label_caption(label: Tensor, classes: tuple[str, ...]) -> str:
    """Return the class name of a label, or the shares of a mixed one (`0.7 cat`, next line `+ 0.3 dog`).

    Args:
        label: Class number (scalar int64), or shares `K` (float32) that sum to 1.
        classes: Names of the K classes.
    """
    room = caption_characters(TILE_INCHES)
    if label.ndim == 0:
        return shorten(classes[int(label)], room)
    shares, order = label.topk(min(2, len(label)))
    if shares[0] > 0.995:
        return shorten(classes[int(order[0])], room)
    return "\n+ ".join(
        f"{share:.2f} {shorten(classes[index], room - 7)}"
        for share, index in zip(shares.tolist(), order.tolist(), strict=True)
    )
