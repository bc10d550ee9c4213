"""What the network sees in training, drawn before it starts."""

from itertools import islice

import lightning.pytorch as L
import torch
from torch import Tensor

from tlab.dashboards.board import add_figure, writer
from tlab.dashboards.figures import caption_characters, shorten, tile_figure
from tlab.errors import UserError

TILE_INCHES = 1.5


class AugmentationPreview(L.Callback):
    """Draws training images as the network gets them, when the fit starts.

    `preview/batch` is the start of the first batch, augmented and mixed, with its labels; `preview/views` has one
    image in each row: as evaluation sees it, then as the first epochs will. Both are made by the data set from
    addresses (epoch, index), so they are what training will use, and drawing them changes no random stream.

    Args:
        images: Images of the batch, and a quarter of it rows of views; 0 draws nothing.
        views: Epochs shown of each row.
    """

    def __init__(self, images: int = 16, views: int = 4) -> None:
        self.images = images
        self.views = views

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw both figures."""
        board = writer(trainer)
        data = getattr(trainer, "datamodule", None)
        if board is None or data is None or not self.images:
            return
        loader = data.loader("train", train=True)
        keys = list(islice(loader.sampler, self.images))
        images, labels = _read(loader.dataset, keys)
        captions = [label_caption(label, data.classes) for label in labels]
        figure = tile_figure(images, captions, "First training batch", 8, tile_inches=TILE_INCHES)
        add_figure(board, "preview/batch", figure, 0)
        self._draw_views(board, loader.dataset, data.loader("train").dataset, data.classes)

    def _draw_views(self, board, augmented, plain, classes: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
        rows = min(len(augmented), -(-self.images // 4))
        tiles: list[Tensor] = []
        captions: list[str] = []
        for index in (row * len(augmented) // rows for row in range(rows)):
            before, labels = _read(plain, [(0, index)])
            views, _ = _read(augmented, [(epoch, index) for epoch in range(self.views)])
            tiles += [*before, *views]
            captions += [label_caption(labels[0], classes), *[""] * self.views]
        headers = ["evaluation", *(f"epoch {epoch + 1}" for epoch in range(self.views))]
        figure = tile_figure(tiles, captions, "Augmentation", len(headers), headers, TILE_INCHES)
        add_figure(board, "preview/views", figure, 0)


def label_caption(label: Tensor, classes: tuple[str, ...]) -> str:
    """Return the class name of a label, or the shares of a mixed one (`0.7 cat`, next line `+ 0.3 dog`).

    Args:
        label: Scalar int64, or `K` float32 that sums to 1.
        classes: The K names.
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


def _read(dataset: torch.utils.data.Dataset, keys: list) -> tuple[list[Tensor], list[Tensor]]:
    batch = dataset.__getitems__(keys)  # type: ignore[attr-defined]
    if isinstance(batch, UserError):  # the data set hands an unreadable file over as a value
        raise batch
    return list(batch.image), list(batch.label)
