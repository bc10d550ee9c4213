"""Setting a linear head to its optimum on the stored features of a phase."""

import logging
import time
from typing import Any

import numpy as np
import torch

from tlab.core.errors import UserError
from tlab.core.processes import from_first_process
from tlab.core.text import counted
from tlab.data.datamodule import ImageDataModule
from tlab.data.feature_batches import FeatureBatches
from tlab.models.head import Standardize
from tlab.models.logistic_regression import Solution, solve
from tlab.models.module import ImageClassifier

log = logging.getLogger(__name__)


class NoStoredFeatures(UserError):  # noqa: N818 - named for what is missing
    """The features on which a head is to be solved are not stored."""


def solve_head(
    module: ImageClassifier, features: FeatureBatches | None, data: ImageDataModule, l2: float | None = None
) -> dict[str, Any]:
    """Set the head's last layer to the optimum of cross-entropy with an L2 penalty, see `solve`.

    A head that standardizes its features gets their mean and variance; the layer then is for standardized ones.

    Args:
        module: The module, whose stages are frozen; its loss may weight the classes.
        features: Pooled features of the training images.
        data: Data module of the images.
        l2: Strength of the penalty; None: chosen by cross-validation.

    Returns:
        `solver`, `iterations` and `l2`.

    Raises:
        NoStoredFeatures: There are no stored features, or they are mixed.
        UserError: They are not finite.
    """
    if features is None or not features.is_pooled or features.mixing is not None:
        raise NoStoredFeatures(
            "head.solver=lbfgs needs pooled features of unmixed images that are stored, and there are none here; "
            "give head.solver=sgd"
        )
    began = time.perf_counter()
    found = from_first_process(_solution, module, features, data, l2)
    head, device = module.net.head, module.device
    weight, bias = torch.from_numpy(found.weight), torch.from_numpy(found.bias)
    if isinstance(head.norm, Standardize):
        mean, variance = torch.from_numpy(found.mean), torch.from_numpy(found.variance)
        bias = bias + weight @ mean
        weight = weight * (variance + head.norm.eps).sqrt()
        head.norm.load_state_dict({**head.norm.state_dict(), "running_mean": mean, "running_var": variance})
    with torch.no_grad():
        head.linear.weight.copy_(weight.to(device))
        head.linear.bias.copy_(bias.to(device))
    log.info(
        "the head is at its optimum on %s of %s (L-BFGS, %s, l2=%.3g%s, %.1f s)",
        *(counted(features.views, "view"), counted(len(features.labels), "image")),
        *(counted(found.iterations, "iteration"), found.l2),
        *(" by cross-validation" if l2 is None else "", time.perf_counter() - began),
    )
    return {"solver": "lbfgs", "iterations": found.iterations, "l2": found.l2}


def _solution(
    module: ImageClassifier, features: FeatureBatches, data: ImageDataModule, l2: float | None
) -> Solution:
    weights = getattr(module.loss, "class_weights", None)
    weights = torch.ones(data.num_classes) if weights is None else weights.cpu()
    if data.balanced:
        weights = weights * data.class_weights()
    count = len(features.views)
    views = (features.view(number).float().numpy() for number in range(count))
    labels = features.labels.numpy()
    found = solve(views, labels, data.num_classes, weights.double().numpy(), l2, num_views=count)
    if not np.isfinite(found.weight).all():
        raise UserError(
            f"the features behind {features.after} are not finite numbers; "
            "use trainer.precision=32-true, or other backbone.weights"
        )
    return found
