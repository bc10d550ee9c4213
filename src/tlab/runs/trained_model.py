"""A trained network in use: what it says about images, and the features that it sees in them."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tlab.core.errors import UserError
from tlab.core.hardware import cpus_per_process, single_threaded, thread_pool
from tlab.core.text import as_text
from tlab.data.augment.evaluation import evaluation_transform
from tlab.data.decode import DecodeError, decode, upright_rgb
from tlab.data.decode_options import DecodeOptions
from tlab.data.image_batches import ImageBatches
from tlab.data.loader import Loader, make_loader
from tlab.data.sampler import SequentialSampler
from tlab.data.sources.folder import Sample
from tlab.data.sources.scan import image_files
from tlab.models.autotune.precision import Precision, autocast, find_accelerator
from tlab.models.classifier import POOL
from tlab.models.head import pool
from tlab.runs.load import Trained

Pixels: TypeAlias = Image.Image | np.ndarray | Tensor
OneImage: TypeAlias = str | Path | Pixels


class Prediction(NamedTuple):
    """What a model says about one image.

    Attributes:
        label: The most probable class.
        probability: Its probability, in 0..1.
        probabilities: The probability of each class, in the order of the model's classes.
    """

    label: str
    probability: float
    probabilities: dict[str, float]


class TrainedModel:
    """A run's network with its best weights, on the device that computes.

    Args:
        trained: The network as read from a checkpoint.
        accelerator: `auto` (the first GPU, else the CPU), `cpu`, `gpu`, `cuda` or `mps`.
        precision: Precision of the arithmetic; None: as in the run.
    """

    def __init__(self, trained: Trained, accelerator: str = "auto", precision: Precision | None = None) -> None:
        self.trained = trained
        self.device = torch.device(find_accelerator(accelerator))
        self.precision = precision or trained.precision
        self.module = trained.module.to(self.device)
        self._transform = evaluation_transform(trained.image_size, trained.resize, trained.crop_fraction)
        self._decode_options = replace(trained.decode_options, truncated=True)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the logits."""
        return self.trained.classes

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the backbone's stages, in forward order."""
        return tuple(self.module.net.backbone.stage_names)

    def predict(self, images: OneImage | Iterable[OneImage]) -> list[Prediction]:
        """Return a prediction for each image.

        Args:
            images: One or several of: an image file, a folder of them, a PIL image, an array `H W 3` or `H W`, or a
                tensor `3 H W`, of uint8 or of floats in 0..1. Of a folder the files come in order of their names.

        Raises:
            UserError: A file is missing or cannot be read.
        """
        batches = (self._logits(x).softmax(dim=1).cpu() for x in self._batches(images))
        return [self.prediction(p) for batch in batches for p in batch]

    def features(self, images: OneImage | Iterable[OneImage], upto: str | None = None) -> Tensor:
        """Return the features of each image: `N D`, float32, on the CPU.

        Args:
            images: As for `predict`.
            upto: The stage whose output is averaged over positions; None: what the head classifies, pooled as in
                the run.

        Raises:
            UserError: There is no such stage, or a file is missing or cannot be read.
        """
        net = self.module.net
        if upto is not None and upto not in self.stages:
            raise UserError(f"upto={upto} is no stage of this network; its stages are {', '.join(self.stages)}")
        rows = []
        with torch.inference_mode(), autocast(self.device, self.precision):
            for x in self._batches(images):
                y = net.prefix(self.module.to_memory_format(x.to(self.device)), POOL if upto is None else upto)
                rows.append(pool(y, "avg", net.backbone.prefix_tokens).float().cpu())
        return torch.cat(rows) if rows else torch.empty(0, 0)

    def loader(
        self, files: Sequence[Path], options: DecodeOptions, batch_size: int, num_workers: int | None
    ) -> Loader:
        """Return batches of image files in their order, as evaluation sees them."""
        images = ImageBatches(
            [Sample(str(file), 0) for file in files],
            finish=self._transform,
            image_size=self.trained.image_size,
            decode_options=options,
        )
        return make_loader(images, SequentialSampler(len(images)), batch_size, num_workers)

    def probabilities(self, loader: Loader) -> Iterator[tuple[int, Tensor]]:
        """Yield the number of each image of a loader, and its probabilities `K`."""
        for batch in loader:
            yield from zip(batch.index.tolist(), self._logits(batch.image).softmax(dim=1).cpu(), strict=True)

    def prediction(self, probabilities: Tensor) -> Prediction:
        """Return the prediction that probabilities `K` stand for."""
        best = int(probabilities.argmax())
        shares = dict(zip(self.classes, probabilities.tolist(), strict=True))
        return Prediction(self.classes[best], float(probabilities[best]), shares)

    def _logits(self, x: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(self.device, self.precision):
            return self.module(x.to(self.device))

    def _batches(self, images: OneImage | Iterable[OneImage]) -> Iterator[Tensor]:
        """Yield batches `B 3 S S` of images of any kind, in order."""
        several = [images] if isinstance(images, OneImage) else images
        each = (one for image in several for one in _files(image))
        with thread_pool(cpus_per_process()) as pool:
            while chunk := list(itertools.islice(each, self.trained.config.data.batch_size)):
                with single_threaded():
                    x = torch.stack(list(pool.map(self._square, chunk)))
                yield x

    def _square(self, image: Path | Pixels) -> Tensor:
        """Return an image as evaluation sees it: uint8 `3 S S`."""
        if not isinstance(image, Path):
            return self._transform(_pixels(image))
        try:
            return self._transform(decode(image, self._transform.least_side, self._decode_options))
        except DecodeError as error:
            raise UserError(f"no prediction for {as_text(str(image))}: {error.reason}") from error


def _files(image: OneImage) -> Sequence[Path | Pixels]:
    """Return the files that a path stands for; pixels as they are."""
    if not isinstance(image, str | Path):
        return [image]
    path = Path(image).expanduser()
    if path.is_dir():
        return [path / name for name in image_files(path)]
    if not path.is_file():
        raise UserError(f"{path} does not exist; give image files, folders of them, or pixels")
    return [path]


def _pixels(image: Pixels) -> Tensor:
    """Return an image as uint8 `3 H W`.

    Raises:
        UserError: An array or a tensor has another shape or type.
    """
    if isinstance(image, Image.Image):
        return torch.from_numpy(np.array(upright_rgb(image))).permute(2, 0, 1)
    x = torch.as_tensor(image)
    if isinstance(image, np.ndarray):
        x = x[..., None].expand(*x.shape, 3) if x.ndim == 2 else x
        x = x.permute(2, 0, 1) if x.ndim == 3 else x
    if x.ndim != 3 or x.shape[0] != 3 or (x.dtype != torch.uint8 and not x.is_floating_point()):
        raise UserError(
            f"an image of shape {tuple(image.shape)} and type {image.dtype} is none; give arrays H W 3 or tensors "
            "3 H W, of uint8 or of floats in 0..1"
        )
    return x if x.dtype == torch.uint8 else x.mul(255).round().clamp(0, 255).to(torch.uint8)
