"""A view of images: one way in which each of them may be seen, whose features are cached."""

from collections.abc import Iterable

import numpy as np

from tlab.data.datamodule import ImageDataModule
from tlab.data.image_batches import ImageBatches
from tlab.data.sampler import OrderedKeys
from tlab.data.sources.samples import Sample
from tlab.finetuning.features import fingerprint


class ImageView:
    """One view of some images, and what its pixels depend on.

    Args:
        images: The images.
        pixels: Digest of the transforms.
        seed: Seed of the augmentation; None for images as evaluation sees them.
        epoch: Epoch whose augmentation it is.

    Attributes:
        keys: Key of each image, whose place is its row.
        recipe: Everything that the pixels depend on, as plain data.
    """

    def __init__(self, images: ImageBatches, pixels: str, seed: int | None = None, epoch: int = 0) -> None:
        self.images = images
        self.keys = OrderedKeys(range(len(images)), epoch)
        view = None if seed is None else [seed, epoch]
        pixels = f"{pixels} {images.decode_options}"
        self.recipe = {"pixels": pixels, "files": fingerprint.of_files(images.samples), "view": view}

    def rows(self, samples: Iterable[Sample]) -> np.ndarray:
        """Return the row of each of these samples: N, int64."""
        row = {sample.file: number for number, sample in enumerate(self.images.samples)}
        return np.fromiter((row[sample.file] for sample in samples), np.int64)

    @classmethod
    def plain(cls, data: ImageDataModule, *splits: str) -> "ImageView | None":
        """Return the images of some splits as evaluation sees them; None where the transform cannot be pickled.

        In the order of their paths: however a seed shuffles them over the splits, the rows are the same.
        """
        return cls.of_samples(data, (sample for split in splits for sample in data.samples(split)))

    @classmethod
    def of_samples(cls, data: ImageDataModule, samples: Iterable[Sample]) -> "ImageView | None":
        """Return some of the images as evaluation sees them, as `plain` does."""
        images = data.images(sorted({*samples}))
        pixels = fingerprint.of_transforms({"finish": images.finish})
        return cls(images, pixels) if pixels else None

    @classmethod
    def augmented(cls, images: ImageBatches, epoch: int) -> "ImageView | None":
        """Return training images as an epoch sees them before mixing; None where a transform cannot be pickled."""
        pixels = fingerprint.of_transforms({**images.augment.steps, "finish": images.finish})
        return cls(images, pixels, images.seed, epoch) if pixels else None
