"""What frozen features tell of the classes: a solved linear probe, nearest neighbors and LogME, stage by stage."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from tlab.advising.logme import logme
from tlab.core.measurements import measurements
from tlab.data import progress_bar
from tlab.data.sources.splitting.folds import fold_files, fold_groups
from tlab.finetuning.features.nearest_neighbors import nearest_neighbors
from tlab.models.logistic_regression import held_out_logits, solve

Features = NDArray[np.floating]
Labels = NDArray[np.int64]

FOLDS = 5
NEIGHBORS = 5
MOST = 5_000  # images that are probed; of more the accuracy is known to a percent, and longer work tells little
VERSION = 1  # of what is measured, for what is kept of it


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


def score_stages(
    stages: dict[str, Features], labels: Labels, groups: Sequence[str] | None, num_classes: int
) -> list[StageScore]:
    """Return the score of each stage; those of features seen before are kept in the cache directory.

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
    scores = []
    with measurements("probes") as known:
        for stage, features in progress_bar.shown(stages.items(), "Probing stages", len(stages)):
            x = np.ascontiguousarray(features[rows])
            parts = (f"{VERSION} {num_classes} {x.shape} {x.dtype}".encode(), x, labels, folds, members)
            key = blake2b(b"".join(map(bytes, parts)), digest_size=16).hexdigest()
            if key not in known:
                score = score_stage(stage, x, labels, folds, members, num_classes)
                known[key] = {name: value for name, value in asdict(score).items() if name != "stage"}
            scores.append(StageScore(stage, **known[key]))
    return scores


def score_stage(
    stage: str, features: Features, labels: Labels, folds: Labels, members: Labels, num_classes: int
) -> StageScore:
    """Return the score of one stage; see `score_stages`, `assign_folds` and `probe` for the arguments."""
    accuracy, error = probe(features, labels, folds, members, num_classes)
    near = neighbors(features, labels, members, num_classes)
    return StageScore(stage, features.shape[1], accuracy, error, near, logme(features, labels, num_classes))


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


def probe(
    features: Features, labels: Labels, folds: Labels, members: Labels, num_classes: int
) -> tuple[float, float]:
    """Return accuracy and standard error, over the images held out in turn, of a solved linear layer.

    The penalty is chosen once, on all images. Images of one group are right and wrong together, so that the error
    is that of a mean of groups (Liang & Zeger 1986); of single images it is that of a binomial share.

    Args:
        features: Features `N D`.
        labels: Label of each image, `N`.
        folds: Fold of each, -1 for none, `N`.
        members: Number of the group of each, `N`.
        num_classes: Number of classes.
    """
    held = folds >= 0
    if not held.any():
        return 0.0, 1.0
    l2 = solve([features], labels, num_classes).l2
    logits = held_out_logits(features, labels, num_classes, folds, l2)
    right = logits[held].argmax(axis=1) == labels[held]
    accuracy = float(right.mean())
    deviations = np.bincount(members[held], right - accuracy)
    return accuracy, float(np.sqrt(np.square(deviations).sum()) / np.count_nonzero(held))


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
