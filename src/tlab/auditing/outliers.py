"""Images that are like no others."""

import numpy as np
from numpy.typing import NDArray

NEIGHBOR = 5  # the one to which the distance counts, so that a few odd images alike are found too
FENCE = 1.5  # of the quartiles' difference above the third (Tukey 1977, "Exploratory Data Analysis")


def outliers(cosines: NDArray[np.float32]) -> list[tuple[int, float]]:
    """Return the images that are further from their neighbors than most are, the furthest first.

    The distance is 1 less the cosine to the fifth neighbor (Ramaswamy et al. 2000, "Efficient algorithms for mining
    outliers from large data sets"), of features as they come: less their mean, odd ones would look like the rest.

    Args:
        cosines: Of each image's nearest neighbors, `N k`, the nearest first.

    Returns:
        Row and distance, in 0..1, of each.
    """
    distance = 1 - cosines[:, min(NEIGHBOR, cosines.shape[1]) - 1]
    low, high = np.quantile(distance, (0.25, 0.75))
    far = np.flatnonzero(distance > high + FENCE * (high - low))
    return [(int(row), float(min(distance[row], 1))) for row in far[np.argsort(-distance[far], kind="stable")]]
