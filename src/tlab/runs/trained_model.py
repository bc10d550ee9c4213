"""A trained network in use: what it says about images, and the features that it sees in them."""

import itertools
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
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
from tlab.data.decode import decode, upright_rgb
from tlab.data.decode_options import MOSTLY_THERE, DecodeOptions, Levels
from tlab.data.image_batches import ImageBatches
from tlab.data.loader import make_loader
from tlab.data.sampler import SequentialSampler
from tlab.data.sources.folder import Sample
from tlab.data.sources.scan import extensions, in_order, read_folder
from tlab.data.sources.verify import examine
from tlab.models.autotune.precision import Precision, autocast, find_accelerator
from tlab.models.classifier import POOL
from tlab.models.head import pool
from tlab.runs.load import Trained

log = logging.getLogger(__name__)

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
        calibrate: Whether probabilities are scaled by the checkpoint's temperature; `auto`: where that lowers the
            loss of validation images. The most probable class is the same.
    """

    def __init__(
        self,
        trained: Trained,
        accelerator: str = "auto",
        precision: Precision | None = None,
        calibrate: str | bool | None = "auto",
    ) -> None:
        self.trained = trained
        self.temperature = trained.temperature.applied(calibrate)
        self.device = torch.device(find_accelerator(accelerator, "accelerator"))
        self.precision = precision or trained.precision
        self.module = trained.module.to(self.device)
        self._square = evaluation_transform(trained.image_size, trained.resize, trained.crop_fraction)

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
                tensor `3 H W`, of uint8 or of floats in 0..1; an array also of uint16 where the run has seen files
                of more than 8 bits. Of a folder the files come in order of their names. A file that is cut short
                counts, with a warning, if most of the image is there.

        Raises:
            UserError: A file is missing or cannot be read, a folder holds no image, or pixels are none.
        """
        return [prediction for x in self._batches(images) for prediction in self._predictions(x)]

    def features(self, images: OneImage | Iterable[OneImage], upto: str | None = None) -> Tensor:
        """Return the features of each image: `N D`, float32, on the CPU.

        Args:
            images: As for `predict`.
            upto: The stage whose output is averaged over positions; None: what the head classifies, pooled as in
                the run.

        Raises:
            UserError: There is no such stage, or as for `predict`.
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

    def predict_files(
        self,
        files: Sequence[Path],
        options: DecodeOptions,
        batch_size: int,
        num_workers: int | None,
        damaged: Collection[str] = (),
    ) -> Iterator[Prediction]:
        """Yield a prediction for each of many image files, decoded as in training (see `ImageBatches`)."""
        images = ImageBatches(
            [Sample(str(file), 0) for file in files],
            finish=self._square,
            image_size=self.trained.image_size,
            decode_options=options,
            damaged=damaged,
        )
        for batch in make_loader(images, SequentialSampler(len(images)), batch_size, num_workers):
            yield from self._predictions(batch.image)

    def _predictions(self, x: Tensor) -> Iterator[Prediction]:
        with torch.inference_mode(), autocast(self.device, self.precision):
            probabilities = self._probabilities(x.to(self.device))
        for row in probabilities.tolist():
            shares = dict(zip(self.classes, row, strict=True))
            best = max(self.classes, key=shares.__getitem__)
            yield Prediction(best, shares[best], shares)

    def _probabilities(self, x: Tensor) -> Tensor:
        """Return the probabilities of each image on the device: `B K`, on the CPU.

        In float64, in which scaling makes no two of them equal whose logits are not.
        """
        return (self.module(x).cpu().double() / self.temperature).softmax(dim=1)

    def _batches(self, images: OneImage | Iterable[OneImage]) -> Iterator[Tensor]:
        """Yield batches `B 3 S S` of images of any kind, in order."""
        several = [images] if isinstance(images, OneImage) else images
        each = (one for image in several for one in _files(image))
        with thread_pool(cpus_per_process()) as threads:
            while chunk := list(itertools.islice(each, self.trained.config.data.batch_size)):
                with single_threaded():
                    x = torch.stack(list(threads.map(self._read, chunk)))
                yield x

    def _read(self, image: Path | Pixels) -> Tensor:
        """Return an image as evaluation sees it: uint8 `3 S S`."""
        options = self.trained.decode_options
        if not isinstance(image, Path):
            return self._square(_pixels(image, options.levels))
        check, name = examine(image, options.max_megapixels), as_text(str(image))
        if check.reason not in ("", MOSTLY_THERE):
            raise UserError(f"no prediction for {name}: {check.reason}")
        if check.reason:
            log.warning("%s is cut short: only the part of the image that is there is looked at", name)
        options = replace(options, truncated=True)
        return self._square(decode(image, self._square.least_side, options, not check.damage))


def files_to_predict(path: Path, key: str = "") -> list[Path]:
    """Return the file of this path, or the image files in a folder and below, in order of their names.

    Other files in it are counted in a warning.

    Args:
        path: Path of the file or the folder.
        key: What the error calls the path: `input=`.

    Raises:
        UserError: It does not exist, or the folder holds no image file.
    """
    remedy = "give an image file, or a folder of images"
    if path.is_file():
        return [path.absolute()]
    if not path.is_dir():
        raise UserError(f"{key}{path} does not exist; {remedy}")
    folder = read_folder(path)
    if folder.others:
        log.warning("Not images by their extensions below %s: %s", path, extensions(folder.others))
    names = in_order(folder.files())
    if not names:
        raise UserError(f"{key}{path} holds no image file; {remedy}")
    return [path.absolute() / name for name in names]


def _files(image: OneImage) -> Sequence[Path | Pixels]:
    """Return the files that a path stands for; pixels as they are."""
    return files_to_predict(Path(image).expanduser()) if isinstance(image, str | Path) else [image]


def _pixels(image: Pixels, levels: Levels) -> Tensor:
    """Return an image as uint8 `3 H W`.

    Args:
        image: The image.
        levels: Black and white of samples of more than 8 bits.

    Raises:
        UserError: An array or a tensor has another shape, type or range.
    """
    if isinstance(image, Image.Image):
        return torch.from_numpy(np.array(upright_rgb(image, levels))).permute(2, 0, 1)
    if isinstance(image, Tensor):
        x = image.detach().cpu()
    else:
        array = np.array(image)  # a copy, which is neither read-only nor mirrored by its strides
        deep = array.dtype == np.uint16 and levels.integers is not None
        x = torch.from_numpy(levels.to_eight_bits(array) if deep else array)
        x = x[..., None].expand(*x.shape, 3) if x.ndim == 2 else x
        x = x.permute(2, 0, 1) if x.ndim == 3 else x
    fits = x.ndim == 3 and x.shape[0] == 3 and x.numel() > 0
    if fits and x.is_floating_point() and bool(((x > -0.01) & (x < 1.01)).all()):  # resizing may overshoot
        x = x.mul(255).round().clamp(0, 255).to(torch.uint8)
    if not fits or x.dtype != torch.uint8:
        raise UserError(
            f"pixels of shape {tuple(np.shape(image))} and type {x.dtype} are no image; give arrays H W 3 or "
            "tensors 3 H W of uint8, or of floats in 0..1"
        )
    return x
