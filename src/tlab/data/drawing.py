"""Keys to drawn batches: what a data set would do to its images, noted and left to the device."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import torch

from tlab.data.decode import DecodeError, read_bytes, whole_jpeg_size
from tlab.data.device_canvas import Drawing, EncodedCanvas
from tlab.data.drawn import DrawnBatch, mixed, pack
from tlab.data.mixing import Mix
from tlab.data.order import Key, addressed_seed
from tlab.data.steps import to_pixels

if TYPE_CHECKING:
    from tlab.data.dataset import ImageDataset


def draw_batch(dataset: "ImageDataset", full: Sequence[Key], wanted: Sequence[Key]) -> DrawnBatch:
    """Return what gives the batch of the keys `full`, all of one phase (see `ImageDataset.can_draw`).

    Args:
        dataset: has the images.
        full: keys of the batch.
        wanted: one key for each image that is drawn: those of the batch, and those they are mixed with.

    Raises:
        UserError: a file cannot be read any more.
    """
    drawings = dict(
        zip((key[:3] for key in wanted), dataset.each(partial(draw_image, dataset), wanted), strict=True)
    )
    index = torch.tensor([key.index for key in full])
    if (mixing := dataset.augmentation(full[0]).mixing) is None:
        labels = torch.tensor([dataset.samples[key.index].label for key in full])
        return pack([drawings[key[:3]] for key in full], dataset.image_size, labels, index)
    row = {address: number for number, address in enumerate(drawings)}
    mixes, pairs, labels_K = [], [], []
    for key in full:
        partner, mix = key, Mix()
        if dataset.mixes(key):
            partner = Key(key.epoch, key.partner, key.partner_draw)
            seed = addressed_seed(dataset.seed, "mix", key.epoch, key.index, key.draw)
            mix = mixing.draw(dataset.image_size, dataset.image_size, seed)
        mixes.append(mix)
        pairs.append((row[key[:3]], row[partner[:3]]))
        labels_K.append(dataset.mixed_label(key.index, partner.index, mix.weight))
    return mixed(pack(list(drawings.values()), dataset.image_size, torch.stack(labels_K), index), pairs, mixes)


def draw_image(dataset: "ImageDataset", key: Key) -> Drawing:
    """Return what gives the image of a key before mixing."""
    chain, size = dataset.chains.get(key.phase, dataset.chains[""]), dataset.image_size
    file = _encoded(dataset, key.index) if dataset.leaves_decoding and not dataset.store else None
    seed = addressed_seed(dataset.seed, "augment", key.epoch, key.index, key.draw)
    canvas = chain.draw(file or dataset.source(key.index), seed)
    if canvas.size != (size, size):
        return Drawing.finished(dataset.finish(canvas.tensor()).permute(1, 2, 0).numpy())
    return canvas.drawing()


def _encoded(dataset: "ImageDataset", index: int) -> EncodedCanvas | None:
    """Return a file that `decode` would decode at full size, not decoded; None for any other."""
    with suppress(DecodeError):  # `ImageDataset.original` finds the words for it
        content = read_bytes(dataset.samples[index].path)
        if size := whole_jpeg_size(content, dataset.least_side):
            return EncodedCanvas(content, size, lambda: to_pixels(dataset.original(index)))
    return None
