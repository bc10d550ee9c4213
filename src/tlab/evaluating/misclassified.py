"""The images that a network gets most wrong: what it looks at in them, and what they resemble in training."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn.functional import normalize

from tlab.core.errors import UserError
from tlab.core.text import counted, noun
from tlab.data.sources.samples import Sample
from tlab.evaluating.measure import training_data
from tlab.evaluating.predicted_images import PredictedImages
from tlab.explaining.layer_cam import EXTRA, heat_maps, overlay, torchcam_is_there
from tlab.finetuning.features.rows import has_features
from tlab.finetuning.features.stage_features import stage_features
from tlab.models.classifier import POOL
from tlab.runs.trained_model import TrainedModel, read_image

log = logging.getLogger(__name__)

NEIGHBORS = 4
MOST_TRAINING_IMAGES = 10_000  # among which neighbors are looked for: minutes on a CPU


@dataclass
class Misclassified:
    """An image that is predicted wrong.

    Attributes:
        row: Its number among the measured images.
        square: The image as the network sees it: uint8 `3 S S`.
        of_predicted: The same under the heat map of the predicted class; None without heat maps.
        of_true: Under that of its own class.
        neighbors: The nearest training images, the nearest first, and the cosine to each.
    """

    row: int
    square: Tensor
    of_predicted: Tensor | None
    of_true: Tensor | None
    neighbors: list[tuple[Sample, float]]


def explained(model: TrainedModel, images: PredictedImages, most: int) -> tuple[list[Misclassified], list[str]]:
    """Return the images that are most wrong, the worst first, and sentences about what could not be had.

    Those that can no longer be read are left out.

    Args:
        model: The network.
        images: All images.
        most: Number of images.
    """
    worst = images.worst(most)
    seen = {
        row: squares[0]
        for row in worst
        if (squares := read_image(images.samples[row].path, [model.view], model.view.options.max_megapixels)[1])
    }
    remarks = []
    if gone := len(worst) - len(seen):
        are = noun(gone, "is", "are")
        remarks.append(f"{gone} of the {counted(worst, 'worst error')} can no longer be read, and {are} not shown.")
    if not seen:
        return [], remarks
    rows, x = [*seen], torch.stack([*seen.values()])
    maps: list[list[Tensor | None]] = [[None] * len(rows)] * 2
    try:
        if not torchcam_is_there():
            raise UserError(EXTRA)
        maps = [_overlays(model, x, classes[rows]) for classes in (images.predicted, images.labels)]
    except UserError as error:
        remarks.append(f"No heat maps: {error}.")
        log.warning("no heat maps in the report: %s", error)
    neighbors: list[list[tuple[Sample, float]]] = [[] for _ in rows]
    try:
        neighbors, told = _neighbors(model, [images.samples[row] for row in rows])
        remarks += told
    except UserError as error:
        remarks.append(f"No nearest training images, since those of the run cannot be listed: {error}")
    return [Misclassified(*each) for each in zip(rows, x, *maps, neighbors, strict=True)], remarks


def _overlays(model: TrainedModel, x: Tensor, classes: NDArray[np.int64]) -> list[Tensor | None]:
    """Return images, uint8 `N 3 S S`, under their heat maps of these classes `N`."""
    return [
        overlay(square, heat_map)
        for each, own in zip(x.split(8), torch.from_numpy(classes).split(8), strict=True)
        for square, heat_map in zip(each, heat_maps(model, each, own), strict=True)
    ]


def _neighbors(
    model: TrainedModel, samples: Sequence[Sample]
) -> tuple[list[list[tuple[Sample, float]]], list[str]]:
    """Return the nearest training images of each image by what the network's own head gets, and remarks.

    Raises:
        UserError: The training images are not there any more.
    """
    trained = model.trained
    data = training_data(trained)
    own, remarks = list(data.samples("train")), []
    if len(own) > MOST_TRAINING_IMAGES:
        step = len(own) / MOST_TRAINING_IMAGES  # samples lie class by class, so these are of all classes
        remarks.append(
            f"Nearest training images are looked for among {MOST_TRAINING_IMAGES:,} of {counted(own, 'image')}."
        )
        own = [own[int(place * step)] for place in range(MOST_TRAINING_IMAGES)]
    keeps = OmegaConf.select(trained.config, "features.cache") == "auto"
    max_gb = OmegaConf.select(trained.config, "features.max_gb") if keeps else 0.0
    found = stage_features(model.module.net, data, own, model.precision, max_gb).stages[POOL]
    there = has_features(found)
    x = normalize(model.features([sample.path for sample in samples]), dim=1)
    cosines = x @ normalize(torch.from_numpy(found), dim=1).T
    cosines[:, ~torch.from_numpy(there)] = -torch.inf
    files = np.array([sample.file for sample in own])
    for row, sample in enumerate(samples):  # of a training image itself
        cosines[row, torch.from_numpy(files == sample.file)] = -torch.inf
    values, places = cosines.topk(min(NEIGHBORS, len(own)), dim=1)
    return [
        [(own[place], cosine) for place, cosine in zip(*pair, strict=True) if cosine > -torch.inf]
        for pair in zip(places.tolist(), values.tolist(), strict=True)
    ], remarks
