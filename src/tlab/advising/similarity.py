"""How similar images are to those of the pretraining, as far as the weights tell."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlab.core.measurements import remembered
from tlab.data.datamodule import ImageDataModule
from tlab.finetuning.batchnorm import batchnorm_layers, statistics_digest, training_statistics
from tlab.models.classifier import Classifier

IMAGES = 300  # whose statistics are compared


@dataclass(frozen=True)
class Similarity:
    """How similar the images are to those of the pretraining.

    Attributes:
        statistics: Similarity of BatchNorm's statistics, 0..1, see `statistics_similarity`; None where there is no
            BatchNorm, or the weights are random.
        confidence: Mean of the largest probability that the source classifier gives, 0..1; None where the weights
            carry no classifier.
    """

    statistics: float | None = None
    confidence: float | None = None


def batchnorm_similarity(net: Classifier, data: ImageDataModule, device: torch.device) -> float | None:
    """Return the `statistics_similarity` of what the weights carry and of some training images.

    Kept in the cache directory by all that it depends on. None where the network has no BatchNorm.

    Args:
        net: The network, on the CPU; it is left as it is.
        data: Its data, set up.
        device: Device that computes.
    """
    layers = batchnorm_layers(net.backbone)
    if not layers:
        return None

    def measure() -> dict[str, float]:
        try:
            images = training_statistics(net.to(device), data, [*layers], IMAGES)
        finally:
            net.cpu()
        state = net.state_dict()
        return {"similarity": statistics_similarity({name: state[name] for name in images}, images)}

    return float(remembered("similarity", statistics_digest(net, data), measure)["similarity"])


def statistics_similarity(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    r"""Return 1 minus the distance of two sets of statistics: the mean over the channels, then over the layers.

    Each channel is taken for a Gaussian, as Li et al. 2017 (AdaBN) and Pan et al. 2018 (IBN-Net) do to
    compare domains. Their Kullback-Leibler divergence has no bound, and one dead channel outweighs all others; the
    distance of Hellinger (1909) lies between 0, for the same statistics, and 1, for nothing in common:

    $$H^2 = 1 - \sqrt{\frac{2 \sigma_1 \sigma_2}{\sigma_1^2 + \sigma_2^2}}
    \exp\left(-\frac{(\mu_1 - \mu_2)^2}{4 (\sigma_1^2 + \sigma_2^2)}\right)$$

    Args:
        one: `<layer>.running_mean` and `<layer>.running_var` of each layer, `C`.
        other: The same of the other.
    """
    distances = []
    for name in one:
        if name.endswith(".running_mean"):
            of_variance = f"{name.removesuffix('mean')}var"
            mean1, mean2 = (side[name].double() for side in (one, other))
            variance1, variance2 = (side[of_variance].double().clamp(min=1e-12) for side in (one, other))
            total = variance1 + variance2
            width = (2 * (variance1 * variance2).sqrt() / total).sqrt()
            common = width * torch.exp(-(mean1 - mean2).square() / (4 * total))
            distances.append(float((1 - common).clamp(min=0).sqrt().mean()))
    return 1 - float(np.mean(distances))


def mean_confidence(logits: NDArray[np.floating] | None) -> float | None:
    """Return the mean over the images of the largest probability, for logits `N K` of the source classifier."""
    if logits is None or not len(logits):
        return None
    scaled = np.exp(logits - logits.max(axis=1, keepdims=True))
    return float((1 / scaled.sum(axis=1)).mean())
