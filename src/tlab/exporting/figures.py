"""What is known of a run's quality, with intervals: from its evaluations, else from its confusion matrices."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tlab.core.text import as_text
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
    start = f"evaluation_{split.replace('/', '_')}"
    # of a run it lies in its directory, of one of its checkpoints beside that, maybe beside that of another one
    files = [
        f"{folder}/{start}{end}.json"
        for folder in (run.path, run.checkpoints)
        for end in ("", f"_{run.selected.stem}", f"_{checkpoint.stem}")
    ]
    found = [json.loads(path.read_bytes()) for path in map(Path, files) if path.exists()]
    contents = {Path(each["checkpoint"]).name: each for each in found if each.get("split", split) == split}
    for name in (checkpoint.name, run.selected.name):
        if name in contents and speaks_for(run, name, checkpoint) and (split, name) != ("val", run.refit.name):
            content = contents[name]
            measures: Measures = {title: Measure(**content[title]) for title in MEASURED if content.get(title)}
            return SplitFigures(split, name, content["images"], measures)
    return None


def _counted(run: RunDirectory, checkpoint: Path, split: str, classes: Sequence[str]) -> SplitFigures | None:
    rows = run.confusion(split.replace("/", "_"))
    if not rows or not speaks_for(run, run.selected.name, checkpoint):
        return None
    number = {as_text(name): label for label, name in enumerate(classes)}
    counts = [int(row["count"]) for row in rows]
    labels, predicted = (
        np.repeat([number[row[column]] for row in rows], counts) for column in ("label", "prediction")
    )
    measures = class_measures(predicted, labels, len(classes))
    return SplitFigures(split, run.selected.name, len(labels), measures)


def speaks_for(run: RunDirectory, name: str, checkpoint: Path) -> bool:
    """Tell whether figures of the checkpoint of this name say something of another one of the run."""
    return name == checkpoint.name or (name, checkpoint.name) == (run.selected.name, run.refit.name)


def class_accuracies(run: RunDirectory, checkpoint: Path, split: str) -> Iterator[tuple[str, float]]:
    """Yield each class with images in a split, and the share of them that is right; nothing if it is not known."""
    rows = run.confusion(split) if speaks_for(run, run.selected.name, checkpoint) else []
    for name in dict.fromkeys(row["label"] for row in rows):
        own = {row["prediction"]: int(row["count"]) for row in rows if row["label"] == name}
        yield name, own.get(name, 0) / sum(own.values())
