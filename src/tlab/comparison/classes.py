"""Accuracy per class of every setting, and the confusion of the best one, from what the runs have counted."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tlab.comparison.curves import spread
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
    counts = [_counts(setting) for setting in settings]
    if not counts or not counts[0]:
        return None
    recorded = next(iter(settings[0].counted.values())).record.get("class_names")
    names = list(recorded or sorted({name for pair in counts[0] for name in pair}))
    best, *others = [_accuracies(counted) for counted in counts if counted]
    order = sorted(names, key=lambda name: (name not in best, best.get(name), name))
    few = len(names) <= MOST_CLASSES
    confusion = [[counts[0][label, prediction] for prediction in names] for label in names] if few else None
    return {
        "names": order,
        "best": [best.get(name) for name in order],
        **spread([other.get(name) for other in others] for name in order),
        "others": len(others),
        "confusion": confusion,
        "classes": names,
        "pairs": _pairs(counts[0]),
    }


def _counts(setting: Setting) -> Counts:
    total: Counts = Counter()
    for run in setting.counted.values():
        for row in RunDirectory(run.path).confusion("val"):
            total[row["label"], row["prediction"]] += int(row["count"])
    return total


def _images(counts: Counts) -> Counter[str]:
    """Return how many images each label has."""
    images: Counter[str] = Counter()
    for (label, _), number in counts.items():
        images[label] += number
    return images


def _accuracies(counts: Counts) -> dict[str, float]:
    """Return the accuracy of each class that has images."""
    return {label: counts[label, label] / images for label, images in _images(counts).items() if images}


def _pairs(counts: Counts) -> list[dict[str, Any]]:
    """Return the most frequent mistakes, with their share of the label's images."""
    images = _images(counts)
    wrong = Counter({pair: number for pair, number in sorted(counts.items()) if pair[0] != pair[1]})
    return [
        {"label": label, "prediction": prediction, "count": number, "share": number / images[label]}
        for (label, prediction), number in wrong.most_common(MOST_PAIRS)
    ]
