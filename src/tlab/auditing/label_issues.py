"""Labels that may be wrong: what a classifier of the other images makes of each."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tlab.data.sources.splitting.folds import fold_groups
from tlab.models.logistic_regression import held_out_logits, solve

FOLDS, DIVISIONS = 5, 3  # the mean of several divisions into folds depends less on how they fall
CLEANLAB_MISSING = (
    "Suspected labels need the package cleanlab, which is not installed: give pip install 'tlab-transfer[audit]', "
    "then the same command again; all else was looked at."
)


class LabelIssue(NamedTuple):
    """A label that may be wrong.

    Attributes:
        row: The image.
        suggested: The most probable class.
        own: Probability of the label's class, by the other images.
        other: That of the suggested class.
    """

    row: int
    suggested: int
    own: float
    other: float


def has_cleanlab() -> bool:
    """Tell whether the package is installed."""
    return find_spec("cleanlab") is not None


def held_out_probabilities(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    num_classes: int,
    names: Sequence[str],
    group_of: Mapping[str, str],
) -> NDArray[np.float64]:
    """Return the probabilities of the classes for each image, by a linear probe that was solved on others.

    Five folds, classes evenly divided, copies of an image and groups in one of them; the mean of three such
    divisions.

    Args:
        features: `N D`.
        labels: `N`.
        num_classes: Number of classes K.
        names: A name for each image, from which the folds follow.
        group_of: Name -> what it shares with its copies and its group.

    Returns:
        `N K`, float64; NaN for an image without which its class would be missing in the others.
    """
    by_class: dict[str, list[str]] = defaultdict(list)
    for name, label in zip(names, labels.tolist(), strict=True):
        by_class[f"{label:06}"].append(name)
    strength = solve([features], labels, num_classes).l2
    total, times = np.zeros((len(labels), num_classes)), np.zeros((len(labels), 1))
    for division in range(DIVISIONS):
        fold_of = fold_groups(by_class, group_of, FOLDS, seed=division)
        fold = np.array([fold_of.get(name, -1) for name in names])
        logits = held_out_logits(features, labels, num_classes, fold, strength)
        probabilities = torch.from_numpy(logits).softmax(dim=1).numpy()
        held_out = np.isfinite(probabilities).all(axis=1)
        total[held_out] += probabilities[held_out]
        times[held_out] += 1
    return np.where(times > 0, total / np.maximum(times, 1), np.nan)


def neighbor_shares(
    neighbors: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int, groups: Sequence[str]
) -> NDArray[np.float64]:
    """Return the share of each class among the nearest neighbors of each image, `N K`; its group is left aside.

    Args:
        neighbors: Rows, `N k`.
        labels: `N`.
        num_classes: Number of classes K.
        groups: What each image shares with its copies and its group.
    """
    _, group = np.unique(np.array(groups), return_inverse=True)
    counted = group[neighbors] != group[:, None]
    votes = np.eye(num_classes)[labels[neighbors]] * counted[..., None]
    return votes.sum(axis=1) / np.maximum(counted.sum(axis=1), 1)[:, None]


def label_issues(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> list[LabelIssue]:
    """Return the labels that confident learning takes for wrong (Northcutt et al. 2021), by `cleanlab`.

    Args:
        probabilities: `N K`, see `held_out_probabilities`.
        labels: `N`.
    """
    from cleanlab.filter import find_label_issues  # takes a second, and is in the extra `audit`

    rows = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    present, own = np.unique(labels[rows], return_inverse=True)  # cleanlab wants an image of every class
    if len(present) < 2:
        return []
    shares = probabilities[np.ix_(rows, present)]
    shares /= shares.sum(axis=1, keepdims=True)
    ranked = find_label_issues(
        own, shares, filter_by="prune_by_class", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    best = shares.argmax(axis=1)
    return [
        LabelIssue(int(rows[i]), int(present[best[i]]), float(shares[i, own[i]]), float(shares[i, best[i]]))
        for i in ranked
        if best[i] != own[i]
    ]
