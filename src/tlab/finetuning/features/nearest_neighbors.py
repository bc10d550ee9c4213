"""Nearest neighbors of images by the features of a network."""

import numpy as np
import torch
from numpy.typing import NDArray

BLOCK = 2**24  # cosines that are computed at once: 64 MB


def nearest_neighbors(
    features: NDArray[np.float32], most: int, groups: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the nearest neighbors of each image, by the cosine of the features as they come.

    Args:
        features: `N D`.
        most: Number of neighbors k; fewer where there are not as many images.
        groups: Group of each image, `N`, whose images are not neighbors; None: each is a group of its own.

    Returns:
        Rows `N k`, the nearest first, and their cosines `N k`, float32; -inf where all others are of its group.
    """
    x = torch.nn.functional.normalize(torch.from_numpy(features), dim=1)
    group = torch.arange(len(x)) if groups is None else torch.from_numpy(groups)
    count = min(most, len(x) - 1)
    rows, cosines = [], []
    for start in range(0, len(x), max(1, BLOCK // len(x))):
        block = x[start : start + max(1, BLOCK // len(x))] @ x.T
        block[group[start : start + len(block), None] == group] = -torch.inf
        found = block.topk(count, dim=1)
        rows.append(found.indices.numpy())
        cosines.append(found.values.numpy())
    return np.concatenate(rows), np.concatenate(cosines)
