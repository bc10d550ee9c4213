"""Whether an exported model says what the checkpoint says."""

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tlab.config.overrides import shell_argument
from tlab.core.errors import RunFailed
from tlab.core.text import counted
from tlab.data import progress_bar
from tlab.data.contents import read_entries
from tlab.exporting.graph import Run
from tlab.exporting.photographs import read
from tlab.runs.directory import RunDirectory
from tlab.runs.trained_model import TrainedModel, read_image

log = logging.getLogger(__name__)

MOST_IMAGES = 200
BATCH = 32
EXACT = 1e-3  # largest difference in probability, from the same pixels, that is rounding
TIE = 0.9  # a class that is as probable as this share of the most probable one is as good an answer
SAME_LABEL = 0.99  # share of photographs below which there is a warning
DIFFERENCE = 0.01  # mean difference above which there is one
DRAWN_SIZES = ((48, 64), (200, 150), (333, 500), (64, 64), (600, 400), (31, 77), (120, 500), (257, 255))


class Agreement(NamedTuple):
    """How far an exported model agrees with the checkpoint.

    Attributes:
        images: Number of images.
        of: What they are.
        same_label: Share of them with the same most probable class, or one that is nearly as probable, see `TIE`.
        largest: Largest difference in the probability of a class.
        mean: Mean over the images of the largest difference in the probability of a class.
        exact: Largest difference where both see the same pixels: photographs are decoded by tlab, which shrinks
            large JPEG files while decoding, and by Pillow.
    """

    images: int
    of: str
    same_label: float
    largest: float
    mean: float
    exact: float

    def __str__(self) -> str:
        """Return the figures as a sentence."""
        return (
            f"the same label, or a tie, on {self.same_label:.1%} of {counted(self.images, self.of)}, "
            f"probabilities differ by {self.mean:.2g} in the mean and {self.largest:.2g} at most, "
            f"from the same pixels by {self.exact:.1g}"
        )

    @property
    def is_close(self) -> bool:
        """Whether labels and probabilities agree as well as they should, also where resizing had a part in them."""
        return self.same_label >= SAME_LABEL and self.mean <= DIFFERENCE


def validation_images(run: RunDirectory) -> list[Path]:
    """Return the run's validation images that are there, `MOST_IMAGES` at most, evenly from all classes."""
    root = (run.record.get("data") or {}).get("root")
    if root is None or not run.data_file.exists():
        return []
    listed = [Path(root, entry.path) for entry in read_entries(run.data_file) if entry.split == "val"]
    files = [file for file in listed if file.is_file()]
    if gone := len(listed) - len(files):
        log.warning("%s gone, and not compared", counted(gone, "validation image is", "validation images are"))
    number = min(len(files), MOST_IMAGES)
    return [files[place * len(files) // number] for place in range(number)]


def check(model: TrainedModel, run: Run, files: Sequence[Path]) -> Agreement:
    """Return how far an exported model agrees with the checkpoint.

    Args:
        model: The run, in fp32 on the CPU, with the temperature of the exported model.
        run: The exported model.
        files: Photographs; without one that can be read, drawn pixels are compared.

    Raises:
        RunFailed: It says something else of the same pixels.
    """
    kept: list[Tensor] = []
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for square, ours, theirs in progress_bar.shown(_photographs(model, run, files), "Checking", len(files)):
        if len(kept) < BATCH:
            kept.append(square)
        pairs.append((ours, theirs))
    of = "validation image"
    if not pairs:
        log.warning("Without the run's validation images, drawn ones are compared")
        of = "drawn image"
        for x in _drawn():
            kept.append(model.view.square(x))
            pairs.append((_reference(model, kept[-1][None]), run(x[None].numpy())))
    same = torch.stack(kept)
    reference = _reference(model, torch.stack([model.view.square(x) for x in same]))
    one, all_ = run(same[:1].numpy()), run(same.numpy())
    exact = float(max(np.abs(one - reference[:1]).max(), np.abs(all_ - reference).max()))
    if not exact <= EXACT:  # nor NaN
        run_key = shell_argument("run", model.trained.checkpoint)
        raise RunFailed(
            f"the exported model is wrong by {exact:.2g} in a probability from the same pixels, so nothing is "
            f"written; use the run as it is, with python -m tlab.predict {run_key} input=PHOTOS"
        )
    ours, theirs = (np.concatenate(each) for each in zip(*pairs, strict=True))
    rows, label = np.arange(len(ours)), theirs.argmax(axis=1)
    same_label = float((ours[rows, label] >= TIE * ours.max(axis=1)).mean())
    difference = np.abs(ours - theirs).max(axis=1)
    return Agreement(len(ours), of, same_label, float(difference.max()), float(difference.mean()), exact)


def _photographs(
    model: TrainedModel, run: Run, files: Sequence[Path]
) -> Iterator[tuple[Tensor, np.ndarray, np.ndarray]]:
    """Yield of each photograph that can be read its pixels as the run sees them, and both probabilities `1 K`."""
    reasons: Counter[str] = Counter()
    levels = model.trained.decode_options.levels.integers or ()
    for file in files:
        found, squares = read_image(file, [model.view], model.view.options.max_megapixels)
        if not squares:
            reasons[found.reason] += 1
            continue
        try:
            pixels = read(str(file), *levels)
        except Exception as error:  # Pillow raises many kinds, not only for a damaged file
            reasons[f"Pillow: {type(error).__name__}"] += 1
            continue
        yield squares[0], _reference(model, squares[0][None]), run(pixels)
    for reason, number in reasons.items():
        log.warning("%s not compared (%s)", counted(number, "validation image is", "validation images are"), reason)


def _reference(model: TrainedModel, x: Tensor) -> np.ndarray:
    """Return the checkpoint's probabilities `N K` of images uint8 `N 3 S S`."""
    rows = [list(each.probabilities.values()) for each in model.predictions(x)]
    return np.array(rows)


def _drawn() -> Iterator[Tensor]:
    """Yield smooth noise, uint8 `3 H W`."""
    generator = torch.Generator().manual_seed(0)
    for (height, width), cells in itertools.product(DRAWN_SIZES, (3, 12)):
        noise = torch.rand((1, 3, cells, cells), generator=generator)
        yield torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")[0].mul(255).to(torch.uint8)
