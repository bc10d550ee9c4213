"""What is known of a run's quality, with intervals: from its evaluations, else from its confusion matrices."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tlab.models.calibration.measures import Measure, Measures, class_measures
from tlab.runs.directory import RunDirectory, tests_in

MEASURED = ("accuracy", "balanced_accuracy", "macro_f1", "ece", "nll", "brier", "auroc", "kappa")


class SplitFigures(NamedTuple):
    """The figures of a split.

    Attributes:
        split: `val`, `test`, or `test/NAME` of a further test.
        checkpoint: Name of the checkpoint that they are of.
        images: Number of images.
        measures: See `models.calibration.measures`.
    """

    split: str
    checkpoint: str
    images: int
    measures: Measures


def figures(run: RunDirectory, checkpoint: Path, classes: Sequence[str]) -> list[SplitFigures]:
    """Return the figures of a run's splits, as far as it was measured on them; those of val come first.

    Those that `tlab.evaluate` has written come before those of the confusion matrices, since they tell calibration
    too. A refitted checkpoint's are those of the one that validation had chosen before, unless it was evaluated; on
    validation images, which it has trained on, it has none.

    Args:
        run: The run.
        checkpoint: One of its checkpoints.
        classes: Names of the classes.
    """
    splits = ["val", "test", *(f"test/{name}" for name in tests_in(run.metrics()))]
    found = (_evaluated(run, checkpoint, split) or _counted(run, checkpoint, split, classes) for split in splits)
    return [each for each in found if each is not None]


def _evaluated(run: RunDirectory, checkpoint: Path, split: str) -> SplitFigures | None:
    file = run.path / f"evaluation_{split.replace('/', '_')}.json"
    if not file.exists():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    name = Path(content["checkpoint"]).name
    if name not in _known(run, checkpoint) or (split, name) == ("val", run.refit.name):
        return None
    measures: Measures = {title: Measure(**content[title]) for title in MEASURED if content.get(title)}
    return SplitFigures(split, name, content["images"], measures)


def _counted(run: RunDirectory, checkpoint: Path, split: str, classes: Sequence[str]) -> SplitFigures | None:
    rows = run.confusion(split.replace("/", "_"))
    if not rows or run.selected.name not in _known(run, checkpoint):
        return None
    number = {name: label for label, name in enumerate(classes)}
    counts = [int(row["count"]) for row in rows]
    labels, predicted = (
        np.repeat([number[row[column]] for row in rows], counts) for column in ("label", "prediction")
    )
    measures = class_measures(predicted, labels, len(classes))
    return SplitFigures(split, run.selected.name, len(labels), measures)


def _known(run: RunDirectory, checkpoint: Path) -> set[str]:
    """Return the names of the checkpoints whose figures say something of this one."""
    return {checkpoint.name} | ({run.selected.name} if checkpoint.name == run.refit.name else set())


def class_accuracies(run: RunDirectory, split: str) -> Iterator[tuple[str, float]]:
    """Yield each class that has images in a split, and the share of them that is right."""
    rows = run.confusion(split)
    for name in dict.fromkeys(row["label"] for row in rows):
        own = {row["prediction"]: int(row["count"]) for row in rows if row["label"] == name}
        yield name, own.get(name, 0) / sum(own.values())
