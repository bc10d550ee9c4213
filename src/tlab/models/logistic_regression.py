"""Multinomial logistic regression on stored features: the optimum of a linear head, found by L-BFGS."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

STRENGTHS = tuple(10.0 ** (half / 2) for half in range(6, -5, -1))  # candidates for `l2`, strongest first
FOLDS = 5
CV_MOST = 2**31  # multiplications of one pass in cross-validation, a second on one core; else fewer images are used
EXACT_UP_TO = 2**32  # multiplications of one pass up to which it is done in float64
ITERATIONS = 1_000
CV_ITERATIONS = 60
GRADIENT = 1e-7  # largest element of the gradient of the mean loss at the optimum
CV_GRADIENT = 1e-3


@dataclass(frozen=True)
class Solution:
    """A fitted linear classifier, for features as they come.

    Attributes:
        weight: Rows `K D`, float64.
        bias: Bias `K`, float64.
        l2: Strength of the L2 penalty, see `fit`.
        iterations: Number of iterations of L-BFGS in the last fit.
    """

    weight: Array
    bias: Array
    l2: float
    iterations: int


@dataclass(frozen=True)
class _Problem:
    """Standardized features `N D`, labels `N` and the weight `N` of each row's loss."""

    x: Array
    y: NDArray[np.int64]
    share: Array
    num_classes: int

    def part(self, rows: NDArray[np.bool_]) -> "_Problem":
        return _Problem(self.x[rows], self.y[rows], self.share[rows], self.num_classes)


def solve(
    views: Sequence[Array],
    labels: NDArray[np.int64],
    num_classes: int,
    class_weights: Array | None = None,
    l2: float | None = None,
) -> Solution:
    r"""Fit a linear layer with softmax to its optimum, on all views of each image.

    Minimizes $\frac1V \sum_{v,i} w_{y_i} \ell(W z_{v,i} + b, y_i) + \frac\lambda2 \|W\|^2$, in which $\ell$ is the
    cross-entropy and $z$ are the features with mean 0 and variance 1 over all rows; the bias is not penalized. So
    $\lambda$ is `1 / C` of scikit-learn's `LogisticRegression`. The standardization is folded into the layer
    afterwards. The problem is convex: the result follows from the data alone.

    Args:
        views: V arrays of features `N D`, a view of each image.
        labels: Label of each image, `N`.
        num_classes: Number of classes K.
        class_weights: Weight of each class, `K`; None for equal weights.
        l2: Strength of the penalty; None chooses among `STRENGTHS` the one with the least cross-validated loss.
    """
    work = labels.size * len(views) * views[0].shape[1] * num_classes
    kind = np.float64 if work <= EXACT_UP_TO else np.float32
    x = np.concatenate([np.asarray(view, kind) for view in views])
    mean = x.mean(axis=0, dtype=np.float64)
    std = np.sqrt(np.mean(np.square(x - mean.astype(kind)), axis=0, dtype=np.float64))
    std[std < 1e-6 * max(float(std.max()), 1e-30)] = np.inf  # a constant feature says nothing
    x = (x - mean.astype(kind)) / std.astype(kind)
    weights = np.ones(num_classes) if class_weights is None else np.asarray(class_weights, np.float64)
    share = (weights[labels] / len(views)).astype(kind)
    problem = _Problem(x, np.tile(labels, len(views)), np.tile(share, len(views)), num_classes)
    if l2 is None:
        l2 = _choose_strength(problem, labels.size)
    packed, iterations = _fit(problem, l2, None, GRADIENT, ITERATIONS)
    weight, bias = packed[:, :-1] / std, packed[:, -1]
    return Solution(weight, bias - weight @ mean, l2, iterations)


def _choose_strength(problem: _Problem, images: int) -> float:
    """Return the strength with the least loss in cross-validation, stratified, on the first view of each image.

    The strengths are tried from the strongest on, each from the solution before it, until the loss has risen twice.
    """
    first = problem.part(np.arange(len(problem.y)) < images)
    first = _Problem(
        first.x.astype(np.float32), first.y, first.share * (len(problem.y) / images), first.num_classes
    )
    fold = _folds(first.y)
    most = max(FOLDS * first.num_classes, CV_MOST // (first.x.shape[1] * first.num_classes))
    if images > most:
        kept = np.zeros(images, bool)
        kept[np.linspace(0, images - 1, most).astype(int)] = True
        first, fold = first.part(kept), fold[kept]
    parts = [(first.part(fold != k), first.part(fold == k)) for k in range(FOLDS) if np.any(fold == k)]
    starts: list[Array | None] = [None] * len(parts)
    losses: list[float] = []
    for l2 in STRENGTHS:
        total = 0.0
        for number, (train, held_out) in enumerate(parts):
            fitted, _ = _fit(train, l2, starts[number], CV_GRADIENT, CV_ITERATIONS)
            total += _loss(fitted, held_out, 0.0)[0]
            starts[number] = fitted
        losses.append(total)
        if len(losses) > 2 and losses[-1] > losses[-2] > losses[-3]:
            break
    return STRENGTHS[int(np.argmin(losses))]


def _folds(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a fold for each image, in turn within its class, so that each fold has its share of every class."""
    order = np.argsort(labels, kind="stable")
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % FOLDS
    return fold


def _fit(problem: _Problem, l2: float, start: Array | None, gradient: float, iterations: int) -> tuple[Array, int]:
    """Return weights and bias `K (D + 1)` at the optimum, and the number of iterations."""
    from scipy.optimize import minimize  # which other runs do not need

    shape = (problem.num_classes, problem.x.shape[1] + 1)
    begin = np.zeros(shape) if start is None else start
    scale = float(problem.share.sum())  # the gradient's bound is one on the mean loss

    def objective(flat: Array) -> tuple[float, Array]:
        loss, slope = _loss(flat.reshape(shape), problem, l2)
        return loss / scale, slope.ravel() / scale

    found = minimize(
        objective,
        begin.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": gradient, "ftol": 0.0, "maxiter": iterations, "maxfun": 2 * iterations, "maxcor": 20},
    )
    return found.x.reshape(shape), int(found.nit)


def _loss(packed: Array, problem: _Problem, l2: float) -> tuple[float, Array]:
    """Return the sum of the losses with the penalty, and its gradient `K (D + 1)`."""
    kind = problem.x.dtype
    weight, bias = packed[:, :-1], packed[:, -1]
    logits = problem.x @ weight.T.astype(kind) + bias.astype(kind)
    rows = np.arange(len(problem.y))
    logits -= logits.max(axis=1, keepdims=True)
    of_label = logits[rows, problem.y]
    residual = np.exp(logits, out=logits)
    sums = residual.sum(axis=1, keepdims=True)
    losses = np.log(sums[:, 0]) - of_label
    residual /= sums
    residual[rows, problem.y] -= 1
    residual *= problem.share[:, None]
    # Of two classes only the difference of the rows counts; as one vector it has the penalty of the binary case
    l2 *= 2 if problem.num_classes == 2 else 1
    slope = np.empty_like(packed)
    slope[:, :-1] = residual.T @ problem.x + l2 * weight
    slope[:, -1] = residual.sum(axis=0)
    total = float(np.dot(losses, problem.share)) + 0.5 * l2 * float(np.square(weight).sum())
    return total, slope
