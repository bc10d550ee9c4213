"""Sets of classes that hold the right one with a probability that the user asks for."""

import torch
from torch import Tensor


def adaptive_scores(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Return for each class how much probability a set takes until it has that class: `B K`, float64.

    The randomized score of adaptive prediction sets, APS (Romano, Sesia and Candes 2020, "Classification with Valid
    and Adaptive Coverage", arXiv:2006.02544, section 2.1): the probability of all classes that are more probable,
    and a random part of its own.

    Args:
        probabilities: Probability of each class, `B K`.
        uniform: A number in [0, 1) for each image, `B`, which nothing else about the image has an influence on.
    """
    ordered, order = probabilities.double().sort(dim=1, descending=True, stable=True)
    scores = ordered.cumsum(dim=1) - ordered * (1 - uniform.double()[:, None])
    return torch.empty_like(scores).scatter_(1, order, scores)


def prediction_sets(scores: Tensor, calibration: Tensor, coverage: float) -> Tensor:
    """Return which classes belong to each image's set: `B K`, bool.

    Over images such as those of the calibration, a set holds the right class with probability `coverage`, neither
    less nor (but for 1 / (N + 1)) more. So a set may be empty, where the classifier is right more often than that,
    and holds all classes where N is too small for the coverage.

    Args:
        scores: `adaptive_scores` of the images, `B K`.
        calibration: Scores of the right class of images that the classifier has not learned from: `N`, ascending.
        coverage: Share in (0, 1).
    """
    below = torch.searchsorted(calibration.double(), scores.contiguous())
    return below < coverage * (len(calibration) + 1)
