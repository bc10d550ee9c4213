"""One thread that predicts whatever waits, batch by batch."""

import logging
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor
from torchvision.io import encode_png

from tlab.core.errors import UserError
from tlab.core.hardware import return_freed_memory, single_threaded
from tlab.explaining.layer_cam import grids, heat_maps, overlay, torchcam_is_there
from tlab.predictions.rows import NO_ANSWER
from tlab.runs.trained_model import Prediction, TrainedModel, read_content

log = logging.getLogger(__name__)

Answer = dict[str, Any]
IDLE_SECONDS = 0.5  # without an image, after which memory is returned


class _Image(NamedTuple):
    name: str
    file: IO[bytes]
    answer: "Future[Answer]"
    label: str | None = None  # class to map
    is_mapped: bool = False

    @contextmanager
    def failing_alone(self) -> Iterator[None]:
        """Make any error of the block, whatever it is, this image's answer: the others are still to be answered."""
        try:
            yield
        except Exception as error:
            log.exception("%s has no answer", self.name)
            self.answer.set_exception(error)


class Predictor:
    """A trained model in a thread of its own, which also decodes: one image after the other, so memory is bounded.

    Args:
        model: The model.

    Attributes:
        can_map: Whether it has heat maps: torchcam is installed, and a stage of the network has positions.
    """

    def __init__(self, model: TrainedModel) -> None:
        self.model = model
        self.can_map = torchcam_is_there() and any(grids(model.module.net.backbone, model.trained.image_size))
        self._batch_size = int(model.trained.config.data.batch_size)
        self._waiting: SimpleQueue[_Image | None] = SimpleQueue()
        self._is_closed = False
        size = model.trained.image_size
        next(model.predictions(torch.zeros(1, 3, size, size, dtype=torch.uint8)))  # what is imported late, too
        self._thread = Thread(target=self._work, name="predictor", daemon=True)
        self._thread.start()

    def submit(self, name: str, file: IO[bytes]) -> "Future[Answer]":
        """Return what will be the answer about an image.

        It has `prediction`, `probability`, `probabilities` and `known`, and a `reason` where the file is cut short;
        of what cannot be read the `reason` alone.

        Args:
            name: The file's name.
            file: The file, which stays open until then.
        """
        return self._put(_Image(name, file, Future()))

    def submit_for_map(self, name: str, file: IO[bytes], label: str | None) -> "Future[Answer]":
        """Return what will be the `heat_map` of an image, a PNG of it as the model sees it; else the `reason`.

        Args:
            name: The file's name.
            file: The file, which stays open until then.
            label: The class for which its places speak; None: the most probable one.
        """
        return self._put(_Image(name, file, Future(), label, is_mapped=True))

    def _put(self, image: _Image) -> "Future[Answer]":
        self._waiting.put(image)
        return image.answer

    def close(self, seconds: float) -> bool:
        """End the thread after the image at which it is, and tell whether it has ended within so many seconds."""
        self._is_closed = True
        self._waiting.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while not self._is_closed:
            self._answer(self._batch())

    def _batch(self) -> list[_Image]:
        """Return the images that wait, once there is one, but for those that nobody waits for any more."""
        try:
            images = [self._waiting.get(timeout=IDLE_SECONDS)]
        except Empty:
            return_freed_memory()
            images = [self._waiting.get()]
        with suppress(Empty):
            while len(images) < self._batch_size:
                images.append(self._waiting.get_nowait())
        return [image for image in images if image and image.answer.set_running_or_notify_cancel()]

    def _answer(self, images: list[_Image]) -> None:
        """Answer each image."""
        read = []
        with single_threaded():
            for image in images:
                with image.failing_alone():
                    square, reason = self._read(image)
                    if square is None:
                        image.answer.set_result({"reason": reason})
                    else:
                        read.append((image, square, reason))
        self._predict([each for each in read if not each[0].is_mapped])
        for image, square, _ in read:
            if image.is_mapped:
                with image.failing_alone():
                    image.answer.set_result(self._map(square, image.label))

    def _predict(self, read: Sequence[tuple[_Image, Tensor, str]]) -> None:
        """Answer images by what the network says of them, of which a batch that fails is halved.

        Args:
            read: Images, each as uint8 `3 S S`, and what is to be said of it besides.
        """
        if not read:
            return
        predictions: list[Prediction] = []
        with read[0][0].failing_alone() if len(read) == 1 else suppress(Exception):  # memory may be short
            predictions = list(self.model.predictions(torch.stack([square for _, square, _ in read])))
        if predictions:
            for (image, _, reason), prediction in zip(read, predictions, strict=True):
                image.answer.set_result(_answer(prediction, reason))
        elif len(read) > 1:
            half = len(read) // 2
            self._predict(read[:half])
            self._predict(read[half:])

    def _read(self, image: _Image) -> tuple[Tensor | None, str]:
        """Return a file as the model wants it, uint8 `3 S S`, if it can be read, and what is to be said of it."""
        if self._is_closed:
            return None, "the server ends"
        content, view = b"", self.model.view
        with suppress(ValueError):  # a file that was closed, with its request
            content = image.file.read()
        check, views = read_content(Path(image.name), content, [view], view.options.max_megapixels)
        return next(iter(views), None), check.reason

    def _map(self, square: Tensor, label: str | None) -> Answer:
        """Return an image, uint8 `3 S S`, below its heat map, as a PNG, or why it has none."""
        asked = None if label is None else torch.tensor([self.model.classes.index(label)])
        try:
            (heat_map,) = heat_maps(self.model, square[None], asked)
        except UserError as error:
            return {"reason": str(error)}
        return {"heat_map": encode_png(overlay(square, heat_map)).numpy().tobytes()}


def _answer(prediction: Prediction, reason: str) -> Answer:
    if not math.isfinite(prediction.probability):
        return {"reason": NO_ANSWER}
    label, probability, probabilities, known, _ = prediction
    said = {"prediction": label, "probability": probability, "probabilities": probabilities, "known": known}
    return said | ({"reason": reason} if reason else {})
