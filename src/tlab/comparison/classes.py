"""Accuracy per class of every setting, and the confusion of the best one, from what the runs have counted."""

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from tlab.comparison.load import Run
from tlab.comparison.result import Setting
from tlab.runs.directory import RunDirectory

MOST_CLASSES = 60  # in a confusion matrix that can still be read
MOST_PAIRS = 8

Counts = Counter[tuple[str, str]]  # label, prediction -> images


def class_report(settings: Sequence[Setting]) -> dict[str, Any] | None:
    """Return accuracies per class and confusions of the settings, the best one first; None where none were written.

    Counts are of the validation split in each run's best epoch. A class's accuracy is the share of its images that
    are recognized, over all seeds of a setting.
    """
    if not settings:
        return None
    counts = [_counts(setting.counted.values()) for setting in settings]
    if not counts[0]:
        return None
    names = _class_names(settings[0], counts[0])
    accuracies = [_accuracies(counted, names) for counted in counts if counted]
    others = accuracies[1:]
    best = accuracies[0]
    order = sorted(range(len(names)), key=lambda i: (best[i] is None, best[i] or 0.0, names[i]))
    return {
        "names": [names[i] for i in order],
        "best": [best[i] for i in order],
        "mean": [_mean(other[i] for other in others) for i in order],
        "low": [min(_known(other[i] for other in others), default=None) for i in order],
        "high": [max(_known(other[i] for other in others), default=None) for i in order],
        "others": len(others),
        "confusion": _matrix(counts[0], names) if len(names) <= MOST_CLASSES else None,
        "classes": names,
        "pairs": _pairs(counts[0]),
    }


def _counts(runs: Iterable[Run]) -> Counts:
    total: Counts = Counter()
    for run in runs:
        for row in RunDirectory(run.path).confusion("val"):
            total[row["label"], row["prediction"]] += int(row["count"])
    return total


def _class_names(setting: Setting, counts: Counts) -> list[str]:
    recorded = next(iter(setting.counted.values())).record.get("class_names")
    return list(recorded) if recorded else sorted({name for pair in counts for name in pair})


def _images(counts: Counts) -> Counter[str]:
    """Return how many images each label has."""
    images: Counter[str] = Counter()
    for (label, _), number in counts.items():
        images[label] += number
    return images


def _accuracies(counts: Counts, names: Sequence[str]) -> list[float | None]:
    images = _images(counts)
    return [counts[name, name] / images[name] if images[name] else None for name in names]


def _matrix(counts: Counts, names: Sequence[str]) -> list[list[int]]:
    return [[counts[label, prediction] for prediction in names] for label in names]


def _pairs(counts: Counts) -> list[dict[str, Any]]:
    """Return the most frequent mistakes, with their share of the label's images."""
    images = _images(counts)
    wrong = [(number, pair) for pair, number in counts.items() if pair[0] != pair[1]]
    wrong.sort(key=lambda item: (-item[0], item[1]))
    return [
        {"label": label, "prediction": prediction, "count": number, "share": number / images[label]}
        for number, (label, prediction) in wrong[:MOST_PAIRS]
    ]


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return fmean(known) if known else None
