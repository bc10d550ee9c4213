"""A trained network in use: what it says about images, and the features that it sees in them."""

import itertools
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tlab.config.schema import PredictConfig
from tlab.config.validation import check_value
from tlab.core.errors import UserError
from tlab.core.hardware import cpus_per_process, single_threaded, thread_pool
from tlab.core.text import as_text
from tlab.data.augment.evaluation import ResizeCrop, ResizePad, evaluation_transform
from tlab.data.decode import DecodeError, decode_bytes, read_bytes, upright_rgb
from tlab.data.decode_options import MOSTLY_THERE, DecodeOptions, Levels
from tlab.data.sources.scan import images_to_predict
from tlab.data.sources.verify import FileCheck, examine_content
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
        known: Whether the image is like those of training; None where the model cannot tell.
        prediction_set: The classes, most probable first, among which is the right one with the probability that was
            asked for; None where none was.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    known: bool | None = None
    prediction_set: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls, probabilities: dict[str, float], known: bool | None = None, possible: Collection[str] | None = None
    ) -> "Prediction":
        """Return the prediction that has these probabilities; of equal ones the first class counts.

        Args:
            probabilities: Class -> its probability.
            known: Whether the image is like those of training.
            possible: The classes of the prediction set, in any order.
        """
        label = max(probabilities, key=probabilities.__getitem__)
        if possible is not None:
            possible = tuple(sorted(possible, key=probabilities.__getitem__, reverse=True))
        return cls(label, probabilities[label], probabilities, known, possible)


class View(NamedTuple):
    """How a model wants an image: decoded, then made a square, uint8 `3 S S`."""

    square: ResizeCrop | ResizePad
    options: DecodeOptions


def read_image(path: Path, views: Sequence[View], max_megapixels: float) -> tuple[FileCheck, list[Tensor]]:
    """Return what is known of a file, and it in each view: uint8 `3 S S`; none if it cannot be read.

    One that is cut short is read as far as it goes, if that is most of it; the check's `reason` says so.

    Args:
        path: The file.
        views: How the models want it.
        max_megapixels: Largest readable image.
    """
    try:
        return read_content(path, read_bytes(path), views, max_megapixels)
    except DecodeError as error:
        return FileCheck(reason=error.reason), []


def read_content(
    path: Path, content: bytes, views: Sequence[View], max_megapixels: float
) -> tuple[FileCheck, list[Tensor]]:
    """Do what `read_image` does with the content of a file, which has this name."""
    check = examine_content(path, content, max_megapixels)
    if check.reason not in ("", MOSTLY_THERE):
        return check, []
    whole = not check.damage
    try:
        return check, [
            square(decode_bytes(path, content, square.least_side, options, whole)) for square, options in views
        ]
    except DecodeError as error:  # at full size
        return FileCheck(reason=error.reason), []


class TrainedModel:
    """A run's network with its best weights, on the device that computes.

    Args:
        trained: The network as read from a checkpoint.
        accelerator: `auto` (the first GPU, else the CPU), `cpu`, `gpu`, `cuda` or `mps`.
        precision: Precision of the arithmetic; None: as in the run.
        calibrate: Whether probabilities are scaled by the checkpoint's temperature; `auto`: where that lowers the
            loss of validation images. The most probable class is the same.

    Attributes:
        view: How it wants an image.
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
        square = evaluation_transform(trained.image_size, trained.resize, trained.crop_fraction)
        self.view = View(square, replace(trained.decode_options, truncated=True))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the logits."""
        return self.trained.classes

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the backbone's stages, in forward order."""
        return tuple(self.module.net.backbone.stage_names)

    def predict(self, images: OneImage | Iterable[OneImage], coverage: float | None = None) -> list[Prediction]:
        """Return a prediction for each image.

        Args:
            images: One or several of: an image file, a folder of them, a PIL image, an array `H W 3` or `H W`, or a
                tensor `3 H W`, of uint8 or of floats in 0..1; an array also of uint16 where the run has seen files
                of more than 8 bits. Of a folder the files come in order of their names. A file that is cut short
                counts, with a warning, if most of the image is there.
            coverage: Probability with which each `prediction_set` holds the right class; None: no sets.

        Raises:
            UserError: A file is missing or cannot be read, a folder holds no image, or pixels are none; or the
                coverage is none, or the checkpoint cannot tell.
        """
        self.check_coverage(coverage)
        return [prediction for x in self._batches(images) for prediction in self.predictions(x, coverage=coverage)]

    def check_coverage(self, coverage: float | None) -> None:
        """Raise a `UserError` where the model has no sets of this coverage."""
        check_value("coverage", coverage, PredictConfig)
        if coverage is not None and self.trained.uncertainty is None:
            raise UserError(
                f"coverage={coverage}: {self.trained.checkpoint} does not keep how sure it is of validation "
                "images, as it is unfinished, or of an earlier version; train it again, or leave coverage out"
            )

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

    def predictions(self, x: Tensor, flip: bool = False, coverage: float | None = None) -> Iterator[Prediction]:
        """Yield a prediction for each image of a batch.

        Args:
            x: Images as in `view`: uint8 `B 3 S S`.
            flip: Whether the probabilities are the mean over each image and its mirror image. What is known and the
                sets, which were calibrated so, are those of the image as it is.
            coverage: As for `predict`, and possible.
        """
        with torch.inference_mode(), autocast(self.device, self.precision):
            features, logits = self._look(x)
            probabilities = self._probabilities(logits)
            if flip:
                probabilities = (probabilities + self._probabilities(self._look(x.flip(-1))[1])) / 2
        known: Sequence[bool | None] = [None] * len(x)
        sets: Sequence[list[str] | None] = [None] * len(x)
        if (uncertainty := self.trained.uncertainty) is not None:
            known = uncertainty.known(features).tolist()
            if coverage is not None:
                members = uncertainty.sets(logits, _uniform(x), coverage).tolist()
                sets = [list(itertools.compress(self.classes, row)) for row in members]
        for row, is_known, possible in zip(probabilities.tolist(), known, sets, strict=True):
            yield Prediction.of(dict(zip(self.classes, row, strict=True)), is_known, possible)

    def _look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the head classifies, `B D`, and logits `B K` (float32) of images, on the device."""
        features = self.module.net.prefix(self.module.to_memory_format(x.to(self.device)), POOL)
        return features, self.module.net.head(features).float()

    def _probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities that logits `B K` stand for, on the CPU.

        In float64, in which scaling makes no two of them equal whose logits are not.
        """
        return (logits.cpu().double() / self.temperature).softmax(dim=1)

    def _batches(self, images: OneImage | Iterable[OneImage]) -> Iterator[Tensor]:
        """Yield batches `B 3 S S` of images of any kind, in order."""
        several = [images] if isinstance(images, OneImage | bytes) or not isinstance(images, Iterable) else images
        each = (one for image in several for one in _files(image))
        with thread_pool(cpus_per_process()) as threads:
            while chunk := list(itertools.islice(each, self.trained.config.data.batch_size)):
                with single_threaded():
                    x = torch.stack(list(threads.map(self._read, chunk)))
                yield x

    def _read(self, image: Path | Pixels) -> Tensor:
        """Return an image as evaluation sees it: uint8 `3 S S`."""
        square, options = self.view
        if not isinstance(image, Path):
            return square(_pixels(image, options.levels))
        (check, read), name = read_image(image, [self.view], options.max_megapixels), as_text(str(image))
        if not read:
            raise UserError(f"no prediction for {name}: {check.reason}")
        if check.reason:
            log.warning("%s is cut short: only the part of the image that is there is looked at", name)
        return read[0]


def _uniform(x: Tensor) -> Tensor:
    """Return a number in [0, 1) for each image uint8 `B 3 S S`, by its pixels: a copy gets the same one."""
    digests = (blake2b(image.contiguous().numpy(), digest_size=8).digest() for image in x.cpu())
    return torch.tensor([int.from_bytes(digest, "big") / 2**64 for digest in digests], dtype=torch.float64)


def _files(image: OneImage) -> Sequence[Path | Pixels]:
    """Return the files that a path stands for, of a folder in order of their names; pixels as they are.

    Raises:
        UserError: It does not exist, or the folder holds no image file.
    """
    if not isinstance(image, str | Path):
        return [image]
    if image == "":
        raise UserError("an empty path names no image; give an image file, or a folder of images")
    path = Path(image).expanduser()
    if path.is_dir():
        return [path.absolute() / name for name in images_to_predict(path)]
    if not path.is_file():
        raise UserError(f"{path} does not exist; give an image file, or a folder of images")
    return [path.absolute()]


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
        if array.dtype.kind not in "biuf":
            raise UserError(
                f"values of type {type(image).__name__} are no image; give a file, a folder or pixels, which of a "
                "file's bytes are PIL.Image.open(io.BytesIO(...))"
            )
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
