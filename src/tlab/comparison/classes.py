"""Accuracy per class of every setting, and the confusion of the best one, from what the runs have counted."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from tlab.comparison.result import Setting
from tlab.comparison.statistics import spread
from tlab.runs.directory import RunDirectory

MOST_CLASSES = 60  # in a confusion matrix that can still be read
MOST_PAIRS = 8

Counts = dict[str, Counter[str]]  # label -> prediction -> images


def class_report(settings: Sequence[Setting]) -> dict[str, Any] | None:
    """Return accuracies per class and confusions of the settings, the best one first; None where none were written.

    Counts are of the validation split in each run's best epoch. A class's accuracy is the share of its images that
    are recognized, over all seeds of a setting.
    """
    counts = [_counts(setting) for setting in settings]
    if not counts or not counts[0]:
        return None
    recorded = next(iter(settings[0].counted.values())).record.get("class_names")
    names = list(recorded or sorted({*counts[0], *(name for said in counts[0].values() for name in said)}))
    best, *others = [_accuracies(counted) for counted in counts if counted]
    order = sorted(names, key=lambda name: (name not in best, best.get(name), name))
    few = len(names) <= MOST_CLASSES
    confusion = [[counts[0][label][prediction] for prediction in names] for label in names] if few else None
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
    counts: Counts = defaultdict(Counter)
    for run in setting.counted.values():
        for row in RunDirectory(run.path).confusion("val"):
            counts[row["label"]][row["prediction"]] += int(row["count"])
    return counts


def _accuracies(counts: Counts) -> dict[str, float]:
    """Return the accuracy of each class that has images."""
    return {label: said[label] / said.total() for label, said in counts.items() if said.total()}


def _pairs(counts: Counts) -> list[dict[str, Any]]:
    """Return the most frequent mistakes, with their share of the label's images."""
    wrong = [(-said[name], label, name) for label, said in counts.items() for name in said if name != label]
    return [
        {"label": label, "prediction": name, "count": -number, "share": -number / counts[label].total()}
        for number, label, name in sorted(wrong)[:MOST_PAIRS]
    ]
