"""Confidence held against accuracy, in bins."""

import numpy as np

BINS = 15  # of equal width (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4)
EDGES = np.linspace(0, 1, BINS + 1, dtype=np.float32)


def bins(confidence: np.ndarray) -> np.ndarray:
    """Return the bin of each confidence `N`: 0 to 14, and 15 for 1 itself, as torchmetrics has it."""
    return np.searchsorted(EDGES, confidence.astype(np.float32), side="right") - 1


def reliability(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Return images, sum of their confidence and correct ones of each bin: `3 16`, float64.

    Args:
        confidence: Probability of the predicted class: `N`, in 0..1.
        correct: Whether it is the image's class: `N`.
    """
    where = bins(confidence)
    return np.stack(
        [np.bincount(where, weights, BINS + 1) for weights in (np.ones(len(where)), confidence, correct)]
    )


def expected_error(sums: np.ndarray) -> float:
    """Return the expected calibration error of what `reliability` returns: |confidence - accuracy|, averaged.

    Guo et al. 2017, equation 3; the same as torchmetrics' `MulticlassCalibrationError(n_bins=15, norm="l1")`.
    """
    images, confidence, correct = sums
    return float(np.abs(confidence - correct).sum() / images.sum())
