"""LogME: how well a linear model of frozen features explains the labels, without training anything."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

ITERATIONS = 100
CONVERGED = 1e-5  # relative change of alpha / beta


def logme(features: Array, labels: NDArray[np.int64], num_classes: int) -> float:
    r"""Return the logarithm of the maximum evidence per image, the mean over the classes.

    You et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning" (ICML), equations 2
    and 3 and Algorithm 1. For the features $F$ and the indicator $y$ of a class, with $w \sim N(0, \alpha^{-1} I)$
    and $y \sim N(F w, \beta^{-1} I)$, the evidence is

    $$\log p(y \mid F, \alpha, \beta) = \frac N2 \log \beta + \frac D2 \log \alpha - \frac N2 \log 2\pi
    - \frac\beta2 \|F m - y\|^2 - \frac\alpha2 m^T m - \frac12 \log |A|$$

    in which $A = \alpha I + \beta F^T F$ and $m = \beta A^{-1} F^T y$; `evidence` maximizes it.
    Higher is better; values compare models on the same images alone.

    Args:
        features: Features `N D`.
        labels: Label of each image, `N`.
        num_classes: Number of classes K; one without an image is left out.
    """
    f = np.asarray(features, np.float64)
    wide = f.shape[1] > len(f)
    values, vectors = np.linalg.eigh(f @ f.T if wide else f.T @ f)  # of the smaller of the two
    values = values.clip(min=0)
    kept = values > values.max(initial=0) * max(f.shape) * np.finfo(np.float64).eps
    squares, vectors = values[kept], vectors[:, kept]
    found = []
    for label in range(num_classes):
        y = (labels == label).astype(np.float64)
        if y.any():
            # U^T y, of the decomposition F = U S V^T
            z = vectors.T @ y if wide else (vectors.T @ (f.T @ y)) / np.sqrt(squares)
            found.append(evidence(squares, z**2, float(y @ y), len(f), f.shape[1]) / len(f))
    return float(np.mean(found))


def evidence(squares: Array, projections: Array, total: float, images: int, features: int) -> float:
    r"""Return the maximum over $\alpha, \beta$ of the log evidence, found by the paper's fixed-point iteration.

    $\gamma = \sum_i \beta s_i^2 / (\alpha + \beta s_i^2)$, then $\alpha = \gamma / m^T m$ and
    $\beta = (N - \gamma) / \|F m - y\|^2$.

    Args:
        squares: Squared singular values $s_i^2$ of F that are not 0, `R`.
        projections: $(u_i^T y)^2$ for the left singular vectors, `R`.
        total: $y^T y$.
        images: Number of images N.
        features: Number of features D.
    """
    beyond = max(total - float(projections.sum()), 0.0)  # of y^T y, what no linear model explains
    alpha = beta = 1.0
    for _ in range(ITERATIONS):
        before = alpha / beta
        denominator = alpha + beta * squares
        gamma = float((beta * squares / denominator).sum())
        length, residual = _length(alpha, beta, squares, projections), _residual(alpha, beta, squares, projections)
        alpha = max(gamma, 1e-12) / max(length, 1e-12)
        beta = max(images - gamma, 1e-12) / max(residual + beyond, 1e-12)
        if abs(alpha / beta - before) <= CONVERGED * before:
            break
    length, residual = _length(alpha, beta, squares, projections), _residual(alpha, beta, squares, projections)
    determinant = float(np.log(alpha + beta * squares).sum()) + (features - len(squares)) * np.log(alpha)
    return 0.5 * (
        images * np.log(beta / (2 * np.pi))
        + features * np.log(alpha)
        - beta * (residual + beyond)
        - alpha * length
        - determinant
    )


def _length(alpha: float, beta: float, squares: Array, projections: Array) -> float:
    """Return m^T m."""
    return float((beta**2 * squares * projections / (alpha + beta * squares) ** 2).sum())


def _residual(alpha: float, beta: float, squares: Array, projections: Array) -> float:
    """Return the part of the squared error that the features could explain."""
    return float((alpha**2 * projections / (alpha + beta * squares) ** 2).sum())
