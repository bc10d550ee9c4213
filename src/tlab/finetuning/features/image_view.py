"""A view of images: one way in which each of them may be seen, whose features are cached."""

from collections.abc import Iterable

from tlab.data.datamodule import ImageDataModule
from tlab.data.image_batches import ImageBatches
from tlab.data.sampler import SampleKey
from tlab.data.sources.folder import Sample
from tlab.finetuning.features import fingerprint


class ImageView:
    """One view of some images, and what its pixels depend on.

    Args:
        images: The images.
        pixels: Digest of the transforms.
        seed: Seed of the augmentation; None for images as evaluation sees them.
        epoch: Epoch whose augmentation it is.

    Attributes:
        keys: Key of each image.
        row: File -> its number among the keys.
        recipe: Everything that the pixels depend on, as plain data.
    """

    def __init__(self, images: ImageBatches, pixels: str, seed: int | None = None, epoch: int = 0) -> None:
        self.images = images
        self.keys = [SampleKey(epoch, index) for index in range(len(images))]
        self.row = {sample.path: number for number, sample in enumerate(images.samples)}
        view = None if seed is None else [seed, epoch]
        pixels = f"{pixels} {images.decode_options}"
        self.recipe = {"pixels": pixels, "files": fingerprint.of_files(images.samples), "view": view}

    @classmethod
    def plain(cls, data: ImageDataModule, *splits: str) -> "ImageView | None":
        """Return the images of some splits as evaluation sees them; None where the transform cannot be pickled.

        In the order of their paths: however a seed shuffles them over the splits, the rows are the same.
        """
        return cls.of_samples(data, (sample for split in splits for sample in data.samples(split)))

    @classmethod
    def of_samples(cls, data: ImageDataModule, samples: Iterable[Sample]) -> "ImageView | None":
        """Return some of the images as evaluation sees them, as `plain` does."""
        files = {sample.path: sample for sample in samples}
        images = data.images([files[path] for path in sorted(files)])
        pixels = fingerprint.of_transforms({"finish": images.finish})
        return cls(images, pixels) if pixels else None

    @classmethod
    def augmented(cls, images: ImageBatches, epoch: int) -> "ImageView | None":
        """Return training images as an epoch sees them before mixing; None where a transform cannot be pickled."""
        pixels = fingerprint.of_transforms({**images.augment.steps, "finish": images.finish})
        return cls(images, pixels, images.seed, epoch) if pixels else None
