"""Multinomial logistic regression on stored features: the optimum of a linear head, found by L-BFGS."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tlab.core.hardware import single_threaded

Array = NDArray[np.floating]

STRENGTHS = tuple(10.0 ** (half / 2) for half in range(6, -5, -1))  # candidates for `l2`, strongest first
FOLDS = 5
CV_MOST = 2**31  # multiplications of one pass in cross-validation, a second on one core; else fewer images are used
EXACT_UP_TO = 2**32  # multiplications of one pass up to which it is done in float64
QUICK_UP_TO = 2**37  # multiplications of one pass up to which all of them take minutes, not hours
ITERATIONS = 1_000
CV_ITERATIONS = 60
SCALE = 1e6  # of the mean loss that is minimized: torch's L-BFGS learns nothing of curvature below 1e-10
GRADIENT = 1e-7  # largest element of the gradient of the mean loss at the optimum
CV_GRADIENT = 1e-3
ONE_CORE = 2**26  # multiplications of a block, some milliseconds on one core; several wait longer for each other
BLOCK = 2048  # rows at once: they stay in a core's cache, and what is computed of them takes little memory


@dataclass(frozen=True)
class Solution:
    """A fitted linear classifier, for features as they come.

    Attributes:
        weight: Rows `K D`, float64.
        bias: Bias `K`, float64.
        mean: Mean of each feature over all rows, `D`, float64.
        variance: Variance of each, `D`, float64.
        l2: Strength of the L2 penalty, see `solve`.
        iterations: Number of iterations of L-BFGS in the last fit.
    """

    weight: Array
    bias: Array
    mean: Array
    variance: Array
    l2: float
    iterations: int


@dataclass(frozen=True)
class _Problem:
    """Standardized features `N D`, labels `N` and the weight `N` of each row's loss."""

    x: Array
    y: NDArray[np.int64]
    share: Array
    num_classes: int

    def part(self, rows: NDArray[np.bool_] | slice) -> "_Problem":
        return _Problem(self.x[rows], self.y[rows], self.share[rows], self.num_classes)


def solve(
    views: Iterable[Array],
    labels: NDArray[np.int64],
    num_classes: int,
    class_weights: Array | None = None,
    l2: float | None = None,
    num_views: int = 1,
) -> Solution:
    r"""Fit a linear layer with softmax to its optimum, on all views of each image.

    Minimizes $\frac1V \sum_{v,i} w_{y_i} \ell(W z_{v,i} + b, y_i) + \frac\lambda2 \|W\|^2$, in which $\ell$ is the
    cross-entropy and $z$ are the features with mean 0 and variance 1 over all rows; the bias is not penalized. So
    $\lambda$ is `1 / C` of scikit-learn's `LogisticRegression`. The standardization is folded into the layer
    afterwards. The problem is convex: the result follows from the data alone. It takes the memory of its rows
    (`V N D`, float64, or float32 where they are many) up to twice.

    Args:
        views: V arrays of features `N D`, a view of each image; taken one after the other, each once.
        labels: Label of each image, `N`.
        num_classes: Number of classes K.
        class_weights: Weight of each class, `K`; None for equal weights.
        l2: Strength of the penalty; None chooses among `STRENGTHS` the one with the least cross-validated loss.
        num_views: Number of views V.
    """
    problem, mean, variance, std = _standardized(views, labels, num_classes, class_weights, num_views)
    with _cores_for(problem):
        if l2 is None:
            l2, _ = _choose_strength(problem, labels.size)
        packed, iterations = _fit(problem, l2, None, GRADIENT, ITERATIONS)
    weight, bias = packed[:, :-1] / std, packed[:, -1]
    return Solution(weight, bias - weight @ mean, mean, variance, l2, iterations)


def memory_to_solve(rows: int, features: int, num_classes: int) -> int:
    """Return the bytes that `solve` takes for so many rows of features."""
    return 2 * rows * features * np.dtype(_precision(rows * features * num_classes)).itemsize


def _precision(work: int) -> type[np.floating]:
    """Return the type of the rows, by the multiplications of one pass over them."""
    return np.float64 if work <= EXACT_UP_TO else np.float32


def held_out_logits(
    features: Array, labels: NDArray[np.int64], num_classes: int, fold: NDArray[np.int64], l2: float
) -> Array:
    """Return the logits of each image, by a layer that was solved on the images of the other folds.

    Args:
        features: Features `N D`.
        labels: Labels `N`.
        num_classes: Number of classes K.
        fold: Fold of each image, `N`; -1 for one that is never held out.
        l2: Strength of the penalty, see `solve`.

    Returns:
        `N K`, float64; NaN for an image that is never held out.
    """
    logits = np.full((len(labels), num_classes), np.nan)
    for number in np.unique(fold[fold >= 0]):
        out = fold == number
        found = solve([features[~out]], labels[~out], num_classes, l2=l2)
        logits[out] = features[out] @ found.weight.T + found.bias
    return logits


def _gathered(views: Iterable[Array], num_views: int, num_classes: int) -> Array:
    """Return the rows of all views `V N D`, in the precision that their number allows."""
    x = np.empty((0, 0))
    for number, view in enumerate(views):
        if number == 0:
            kind = _precision(num_views * view.size * num_classes)
            x = np.empty((num_views * len(view), view.shape[1]), kind)
        x[number * len(view) : (number + 1) * len(view)] = view
    return x


def _centered(x: Array) -> tuple[Array, Array]:
    """Subtract each feature's mean in place; return the means and variances before, float64."""
    mean = x.mean(axis=0, dtype=np.float64)
    squares = np.zeros(x.shape[1])
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        block -= mean.astype(x.dtype)
        squares += np.square(block, dtype=np.float64).sum(axis=0)
    return mean, squares / len(x)


def cross_validated_loss(features: Array, labels: NDArray[np.int64], num_classes: int) -> float:
    """Return the mean held-out loss of a linear layer on features `N D`, at the strength that `solve` takes."""
    return _cross_validated(features, labels, num_classes)[1]


def choose_l2(features: Array, labels: NDArray[np.int64], num_classes: int) -> float:
    """Return the strength that `solve` takes for features `N D` with labels `N`, without solving."""
    return _cross_validated(features, labels, num_classes)[0]


def _cross_validated(features: Array, labels: NDArray[np.int64], num_classes: int) -> tuple[float, float]:
    problem = _standardized([features], labels, num_classes, None, 1)[0]
    with _cores_for(problem):
        return _choose_strength(problem, labels.size)


def _cores_for(problem: _Problem) -> AbstractContextManager[None]:
    """Return what keeps torch to one thread where the products are small."""
    small = BLOCK * problem.x.shape[1] * problem.num_classes <= ONE_CORE
    return single_threaded() if small else nullcontext()


def _standardized(
    views: Iterable[Array],
    labels: NDArray[np.int64],
    num_classes: int,
    class_weights: Array | None,
    num_views: int,
) -> tuple[_Problem, Array, Array, Array]:
    """Return the problem for arguments of `solve`; and mean, variance and divisor of each feature, `D`."""
    x = _gathered(views, num_views, num_classes)
    mean, variance = _centered(x)
    std = np.sqrt(variance)
    std[std < 1e-6 * max(float(std.max()), 1e-30)] = np.inf  # a constant feature says nothing
    x /= std.astype(x.dtype)
    weights = np.ones(num_classes) if class_weights is None else np.asarray(class_weights, np.float64)
    share = (weights[labels] / num_views).astype(x.dtype)
    problem = _Problem(x, np.tile(labels, num_views), np.tile(share, num_views), num_classes)
    return problem, mean, variance, std


def _choose_strength(problem: _Problem, images: int) -> tuple[float, float]:
    """Return the strength with the least loss in cross-validation, and this loss, the mean over the images.

    The folds are stratified, and the first view of each image is taken.

    The strengths are tried from the strongest on, each from the solution before it, until the loss has risen twice.
    """
    num_views = len(problem.y) // images
    first = _Problem(
        problem.x[:images].astype(np.float32, copy=False),
        problem.y[:images],
        problem.share[:images] * num_views,
        problem.num_classes,
    )
    fold = _folds(first.y)
    most = max(FOLDS * first.num_classes, CV_MOST // (first.x.shape[1] * first.num_classes))
    if images > most:
        kept = np.zeros(images, bool)
        kept[np.linspace(0, images - 1, most).astype(int)] = True
        first, fold = first.part(kept), fold[kept]
    folds = [k for k in range(FOLDS) if 0 < np.count_nonzero(fold == k) < len(fold)]
    in_order = np.empty_like(first.x)  # of one fold after the other: all of them would take five times this memory
    starts: dict[int, Array] = {}
    losses: list[float] = []
    for l2 in STRENGTHS:
        total = 0.0
        for k in folds:
            order, count = np.argsort(fold == k, kind="stable"), np.count_nonzero(fold != k)
            np.take(first.x, order, axis=0, out=in_order, mode="clip")
            ordered = _Problem(in_order, first.y[order], first.share[order], first.num_classes)
            train, held_out = ordered.part(slice(count)), ordered.part(slice(count, None))
            starts[k], _ = _fit(train, l2, starts.get(k), CV_GRADIENT, CV_ITERATIONS)
            total += _loss(starts[k], held_out, 0.0)[0]
        losses.append(total)
        if len(losses) > 2 and losses[-1] > losses[-2] > losses[-3]:
            break
    best = int(np.argmin(losses))
    return STRENGTHS[best], losses[best] / len(first.y)


def _folds(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a fold for each image, in turn within its class, so that each fold has its share of every class."""
    order = np.argsort(labels, kind="stable")
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % FOLDS
    return fold


def _fit(problem: _Problem, l2: float, start: Array | None, gradient: float, iterations: int) -> tuple[Array, int]:
    """Return weights and bias `K (D + 1)` at the optimum, and the number of iterations."""
    shape = (problem.num_classes, problem.x.shape[1] + 1)
    packed = torch.zeros(shape, dtype=torch.float64) if start is None else torch.from_numpy(start).clone()
    scale = SCALE / float(problem.share.sum())
    # Not SciPy's, whose BLAS has threads that wait for each other wherever another process keeps a core busy
    optimizer = torch.optim.LBFGS(
        [packed],
        max_iter=iterations,
        max_eval=2 * iterations,
        tolerance_grad=SCALE * gradient,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def objective() -> float:
        loss, slope = _loss(packed.numpy(), problem, l2)
        packed.grad = torch.from_numpy(slope * scale)
        return loss * scale

    optimizer.step(objective)
    return packed.numpy(), int(optimizer.state[packed]["n_iter"])


def _loss(packed: Array, problem: _Problem, l2: float) -> tuple[float, Array]:
    """Return the sum of the losses with the penalty, and its gradient `K (D + 1)`."""
    kind = problem.x.dtype
    weight, bias = packed[:, :-1].astype(kind), packed[:, -1].astype(kind)
    # Of two classes only the difference of the rows counts; as one vector it has the penalty of the binary case
    l2 *= 2 if problem.num_classes == 2 else 1
    total = 0.5 * l2 * float(np.square(packed[:, :-1]).sum())
    slope = np.zeros_like(packed)
    slope[:, :-1] = l2 * packed[:, :-1]
    for start in range(0, len(problem.y), BLOCK):
        block = slice(start, start + BLOCK)
        x, y, share = problem.x[block], problem.y[block], problem.share[block]
        rows = np.arange(len(y))
        logits = _product(x, weight.T)
        logits += bias
        logits -= logits.max(axis=1, keepdims=True)
        of_label = logits[rows, y]
        residual = np.exp(logits, out=logits)
        sums = residual.sum(axis=1, keepdims=True)
        total += float(np.dot(np.log(sums[:, 0]) - of_label, share))
        residual /= sums
        residual[rows, y] -= 1
        residual *= share[:, None]
        slope[:, :-1] += _product(residual.T, x)
        slope[:, -1] += residual.sum(axis=0)
    return total, slope


def _product(a: Array, b: Array) -> Array:
    """Return the matrix product, computed by torch: NumPy's threads wait for each other where cores are busy."""
    return (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()
