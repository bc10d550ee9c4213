"""What is known of a run's quality, with intervals: from its evaluations, else from its confusion matrices."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tlab.models.calibration.measures import Measure, Measures, class_measures
from tlab.runs.directory import RunDirectory, tests_in


class SplitFigures(NamedTuple):
    """The figures of a split.

    Attributes:
        split: `val`, `test`, or `test/NAME` of a further test.
        images: Number of images.
        measures: See `models.calibration.measures`.
    """

    split: str
    images: int
    measures: Measures


def figures(run: RunDirectory, checkpoint: Path, classes: tuple[str, ...]) -> list[SplitFigures]:
    """Return the figures of a run's splits, as far as it was measured on them; those of val come first.

    What `tlab.evaluate` has written about this checkpoint comes first, since it knows the probabilities too. The
    confusion matrices are those of the checkpoint that validation has chosen.

    Args:
        run: The run.
        checkpoint: One of its checkpoints.
        classes: Names of the classes.
    """
    splits = ["val", "test", *(f"test/{name}" for name in tests_in(run.metrics()))]
    chosen = checkpoint.name == run.selected.name
    found = (_evaluated(run, checkpoint, split) or (chosen and _counted(run, split, classes)) for split in splits)
    return [each for each in found if each]


def _evaluated(run: RunDirectory, checkpoint: Path, split: str) -> SplitFigures | None:
    file = run.path / f"evaluation_{split.replace('/', '_')}.json"
    if not file.exists():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    if Path(content["checkpoint"]).name != checkpoint.name:
        return None
    names = ("accuracy", "balanced_accuracy", "macro_f1", "ece", "nll", "brier", "auroc")
    return SplitFigures(
        split, content["images"], {name: Measure(**content[name]) for name in names if content.get(name)}
    )


def _counted(run: RunDirectory, split: str, classes: tuple[str, ...]) -> SplitFigures | None:
    rows = [row for row in run.confusion(split.replace("/", "_")) if int(row["count"])]
    if not rows:
        return None
    number = {name: label for label, name in enumerate(classes)}
    counts = [int(row["count"]) for row in rows]
    labels, predicted = (
        np.repeat([number[row[column]] for row in rows], counts) for column in ("label", "prediction")
    )
    return SplitFigures(split, len(labels), class_measures(predicted, labels, len(classes)))


def class_accuracies(run: RunDirectory, split: str) -> Iterator[tuple[str, float]]:
    """Yield each class that has images in a split, and the share of them that is right."""
    rows = run.confusion(split)
    for name in dict.fromkeys(row["label"] for row in rows):
        own = {row["prediction"]: int(row["count"]) for row in rows if row["label"] == name}
        yield name, own.get(name, 0) / sum(own.values())
