"""Labels that may be wrong: what a classifier of the other images makes of each."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tlab.data.sources.splitting.folds import fold_groups
from tlab.models.logistic_regression import choose_l2, held_out_logits

FOLDS, DIVISIONS = 5, 3  # the mean of several divisions into folds depends less on how they fall
MOST_RIGHT = 0.4  # share of the suspected labels that may be right, as far as `label_noise` knows
RATES = np.geomspace(0.03, 0.5, 40)  # of wrong labels: from what public test sets have (Northcutt et al. 2021)
EXPONENTS = np.geomspace(0.1, 10, 60)
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
        wrong: Probability that the label is wrong.
    """

    row: int
    suggested: int
    own: float
    other: float
    wrong: float


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
    strength = choose_l2(features, labels, num_classes)
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
    """Return the labels that two methods take for wrong, the most probably wrong first.

    Confident learning (Northcutt et al. 2021), by `cleanlab`, proposes labels by what is usual for their classes:
    too many where classes are hard to tell apart. Of these the most probably wrong ones, by `label_noise`, are
    taken, as many as leave that probability a mean of 0.6 (Newton et al. 2004, "Detecting differential gene
    expression with a semiparametric hierarchical mixture method": a bound on the rate of false discoveries).

    Args:
        probabilities: `N K`, NaN for an image of which nothing is known.
        labels: `N`.
    """
    from cleanlab.filter import find_label_issues  # takes a second, and is in the extra `audit`

    rows = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    present, own = np.unique(labels[rows], return_inverse=True)  # cleanlab wants an image of every class
    if len(present) < 2:
        return []
    calibrated, wrong = label_noise(probabilities[np.ix_(rows, present)], own)
    proposed = find_label_issues(own, calibrated, filter_by="prune_by_class", n_jobs=1)
    best = calibrated.argmax(axis=1)
    ranked = np.argsort(-wrong, kind="stable")
    ranked = ranked[best[ranked] != own[ranked]]
    mean_wrong = np.cumsum(wrong[ranked]) / np.arange(1, len(ranked) + 1)  # of the first, the first two, ...
    return [
        LabelIssue(
            int(rows[i]),
            int(present[best[i]]),
            float(calibrated[i, own[i]]),
            float(calibrated[i, best[i]]),
            float(wrong[i]),
        )
        for i in ranked[mean_wrong >= 1 - MOST_RIGHT]
        if proposed[i]
    ]


def label_noise(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Return calibrated probabilities of the true classes, and the probability that each label is wrong.

    A label is the true class, or with the rate $\varepsilon$ any other one (Mnih and Hinton 2012, "Learning to
    label aerial images from noisy data"): $p(y|x) = (1-\varepsilon) q_y + \frac{\varepsilon}{K-1} (1 - q_y)$,
    where $q \propto p^s$. So a few wrong labels do not make a classifier look unsure that is right about the
    others. Both results are means over $\varepsilon$ and $s$, each pair weighted by the likelihood of the labels.

    Args:
        probabilities: Held-out probabilities p: `N K`, K at least 2.
        labels: `N`.

    Returns:
        q, `N K`; and $\frac{\varepsilon}{K-1} (1 - q_y) / p(y|x)$, `N`.
    """
    count, num_classes = probabilities.shape
    logs, rates = np.log(probabilities + 1 / count), RATES / (num_classes - 1)  # the floor: one image of all

    def powers(exponent: float) -> NDArray[np.float64]:
        found = np.exp(exponent * (logs - logs.max(axis=1, keepdims=True)))
        return found / found.sum(axis=1, keepdims=True)

    def of_label(q: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        own = q[np.arange(count), labels][:, None]
        return (1 - RATES) * own, rates * (1 - own)  # N x rates: the label is right, or wrong

    likelihood = np.array([np.log(sum(of_label(powers(each)))).sum(axis=0) for each in EXPONENTS])
    weights = np.exp(likelihood - likelihood.max())
    weights /= weights.sum()
    calibrated, wrong = np.zeros_like(probabilities), np.zeros(count)
    for exponent, weight in zip(EXPONENTS, weights, strict=True):
        if weight.sum() > 1e-6:
            q = powers(exponent)
            right, noise = of_label(q)
            calibrated += weight.sum() * q
            wrong += (noise / (right + noise)) @ weight
    return calibrated / calibrated.sum(axis=1, keepdims=True), wrong
