"""What frozen features tell of the classes: a solved linear probe, nearest neighbors and LogME, stage by stage."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlab.advising.logme import logme
from tlab.core.measurements import remembered
from tlab.data import progress_bar
from tlab.data.sources.splitting.folds import fold_files, fold_groups
from tlab.finetuning.features.nearest_neighbors import nearest_neighbors
from tlab.models.logistic_regression import choose_l2, held_out_logits

Features = NDArray[np.floating]
Labels = NDArray[np.int64]
Right = NDArray[np.bool_]

FOLDS = 5
NEIGHBORS = 5
MOST = 5_000  # images that are probed; of more the accuracy is known to a percent, and longer work tells little
VERSION = 2  # of what is measured, for what is kept of it


@dataclass(frozen=True)
class StageScore:
    """How well the features of a stage tell the classes.

    Attributes:
        stage: Name of the stage.
        features: Number of features D.
        accuracy: Cross-validated accuracy of a linear probe, in 0..1.
        error: Its standard error.
        neighbors: Leave-one-out accuracy of the nearest neighbors, in 0..1.
        logme: LogME, see `logme`.
    """

    stage: str
    features: int
    accuracy: float
    error: float
    neighbors: float
    logme: float


@dataclass(frozen=True)
class CutScore:
    """What it is worth to cut the network behind the best of its earlier stages.

    Attributes:
        stage: The best stage before the last one, of equals the deepest.
        accuracy: Cross-validated accuracy of a linear probe on the stage that is picked so, in 0..1: in each fold
            on the stage that is best in the others. That of `stage` is too high, for the best of several has had
            luck (Varma & Simon 2006, "Bias in error estimation when using cross-validation for model selection").
        lead: Its lead over the probe on the whole network.
        error: Standard error of the lead, by the differences on the same images.
    """

    stage: str
    accuracy: float
    lead: float
    error: float


def score_stages(
    stages: dict[str, Features], labels: Labels, groups: Sequence[str] | None, num_classes: int
) -> tuple[list[StageScore], CutScore | None]:
    """Return the score of each stage, and of the best cut; those of features seen before are kept.

    There is no cut where there is one stage alone, or where no image can be held out.

    Args:
        stages: Stage name -> features `N D`, finite.
        labels: Label of each image, `N`.
        groups: Group of each image, none of which is in two folds; None: there are none.
        num_classes: Number of classes.
    """
    rows = np.linspace(0, len(labels) - 1, min(len(labels), MOST)).astype(int)
    labels, groups = labels[rows], None if groups is None else [groups[row] for row in rows]
    folds = assign_folds(labels, groups)
    members = np.unique(groups, return_inverse=True)[1] if groups is not None else np.arange(len(labels))
    scores, right = [], []
    for stage, features in progress_bar.shown(stages.items(), "Probing stages", len(stages)):
        x = np.ascontiguousarray(features[rows])
        parts = (f"{VERSION} {num_classes} {x.shape} {x.dtype}".encode(), x, labels, folds, members)
        key = blake2b(b"".join(map(bytes, parts)), digest_size=16).hexdigest()
        found = {**remembered("probes", key, partial(score_stage, x, labels, folds, members, num_classes))}
        packed = np.frombuffer(bytes.fromhex(found.pop("right")), np.uint8)
        right.append(np.unpackbits(packed, count=len(labels)).astype(bool))
        scores.append(StageScore(stage, **found))
    return scores, score_cut([*stages], np.array(right), folds, members)


def score_stage(
    features: Features, labels: Labels, folds: Labels, members: Labels, num_classes: int
) -> dict[str, Any]:
    """Return the score of one stage without its name, and the images whose probe is `right`, as bits.

    See `score_stages`, `assign_folds` and `probe` for the arguments.
    """
    right = probe(features, labels, folds, num_classes)
    accuracy, error = mean_and_error(right, folds, members)
    near = neighbors(features, labels, members, num_classes)
    score = StageScore("", features.shape[1], accuracy, error, near, logme(features, labels, num_classes))
    found = asdict(score) | {"right": np.packbits(right).tobytes().hex()}
    return {name: value for name, value in found.items() if name != "stage"}


def score_cut(stages: Sequence[str], right: Right, folds: Labels, members: Labels) -> CutScore | None:
    """Return the score of the best cut; None where there is none.

    Args:
        stages: Names of the stages, the last one of the whole network.
        right: Whether the probe of each stage is right about each image, `S N`.
        folds: Fold of each image, -1 for none, `N`.
        members: Number of the group of each, `N`.
    """
    held = folds >= 0
    if len(stages) < 2 or not held.any():
        return None
    picked = np.zeros(len(folds), bool)
    for fold in np.unique(folds[held]):
        picked[folds == fold] = right[_best(right[:-1, held & (folds != fold)])][folds == fold]
    accuracy, _ = mean_and_error(picked, folds, members)
    lead, error = mean_and_error(picked.astype(float) - right[-1], folds, members)
    return CutScore(stages[_best(right[:-1, held])], accuracy, lead, error)


def _best(right: Right) -> int:
    """Return the place of the stage that is right most often, of equals the deepest, for `S N`."""
    return len(right) - 1 - int(np.argmax(right.sum(axis=1)[::-1]))


def assign_folds(labels: Labels, groups: Sequence[str] | None) -> Labels:
    """Return the fold of each image, every class in each as far as it goes, and groups whole: `N`.

    -1 is that of images that are never held out, since the others would lack their class.
    """
    names = [f"{number:08}" for number in range(len(labels))]
    by_class = {str(label): [names[i] for i in np.flatnonzero(labels == label)] for label in np.unique(labels)}
    if groups is None:
        fold_of = fold_files(by_class, FOLDS, 0)
    else:
        fold_of = fold_groups(by_class, dict(zip(names, groups, strict=True)), FOLDS, 0)
    return np.array([fold_of.get(name, -1) for name in names], np.int64)


def probe(features: Features, labels: Labels, folds: Labels, num_classes: int) -> Right:
    """Return whether a solved linear layer is right about each image while it is held out, `N`.

    It is False for an image that never is. The penalty is chosen once, on all images.

    Args:
        features: Features `N D`.
        labels: Label of each image, `N`.
        folds: Fold of each, -1 for none, `N`.
        num_classes: Number of classes.
    """
    held = folds >= 0
    if not held.any():
        return held
    l2 = choose_l2(features, labels, num_classes)
    logits = held_out_logits(features, labels, num_classes, folds, l2)
    return held & (logits.argmax(axis=1) == labels)


def mean_and_error(values: NDArray[Any], folds: Labels, members: Labels) -> tuple[float, float]:
    """Return mean and standard error of the values, `N`, over the images that are held out.

    Images of one group are right and wrong together, so that the error is that of a mean of groups (Liang & Zeger
    1986); of single images it is that of a binomial share. See `probe` for the other arguments.
    """
    held = folds >= 0
    if not held.any():
        return 0.0, 1.0
    mean = float(values[held].mean())
    deviations = np.bincount(members[held], values[held] - mean)
    return mean, float(np.sqrt(np.square(deviations).sum()) / np.count_nonzero(held))


def neighbors(features: Features, labels: Labels, members: Labels, num_classes: int) -> float:
    """Return the accuracy of the vote of each image's `NEIGHBORS` nearest by cosine, none of its own group.

    Of a tie the nearest decides.

    Args and shapes: as for `probe`.
    """
    nearest, near = nearest_neighbors(features.astype(np.float32), NEIGHBORS, members)
    count = nearest.shape[1]
    votes = np.zeros((len(labels), num_classes))
    for place in range(count):  # cosines add less than a vote between them
        rows = np.flatnonzero(np.isfinite(near[:, place]))
        votes[rows, labels[nearest[rows, place]]] += 1 + near[rows, place] / (4 * count)
    return float(((votes.argmax(axis=1) == labels) & votes.any(axis=1)).mean())
