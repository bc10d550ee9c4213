"""The readable images of a run's data, as an audit sees them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tlab.auditing.image_measures import ImageMeasures, measure_images
from tlab.core.text import as_text
from tlab.data.datamodule import ImageDataModule
from tlab.data.sources.folder import ImageIndex
from tlab.data.sources.samples import Sample
from tlab.data.sources.verify import unreadable

SPLITS = ("train", "val", "test")  # a further test, `test/NAME`, is no part of what is cleaned


@dataclass(frozen=True)
class AuditedImages:
    """N images in the order in which copies are kept: those of test first, then val, then train.

    Attributes:
        root: Absolute path of the data.
        classes: Class names, K.
        names: Path of each image, relative to the root, with forward slashes; absolute for a file elsewhere.
        splits: Split of each.
        labels: Label of each: N, int64.
        measures: What was read of each.
        formats: Format of each, by content.
        damage: What is damaged in each, "" where nothing is.
        features: What the head of a network would get: N D, float32; None where no network was asked.
        columns: Further columns of a table: name -> N cells, "" for images that are not in it.
    """

    root: Path
    classes: tuple[str, ...]
    names: list[str]
    splits: list[str]
    labels: NDArray[np.int64]
    measures: list[ImageMeasures]
    formats: list[str]
    damage: list[str]
    features: NDArray[np.float32] | None
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def label(self, row: int) -> str:
        """Return the name of an image's class."""
        return self.classes[self.labels[row]]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return split -> class -> number of images."""
        count = Counter(zip(self.splits, self.labels.tolist(), strict=True))
        order = sorted({*self.splits}, key=lambda split: (SPLITS.index(split) if split in SPLITS else 3, split))
        return {split: {name: count[split, label] for label, name in enumerate(self.classes)} for split in order}


def rank(split: str) -> int:
    """Return a split's place in the order in which copies are kept: a test, then val, then train."""
    return {"train": 2, "val": 1}.get(split, 0)


def read_images(
    data: ImageDataModule, samples: Sequence[tuple[str, Sample]], features: NDArray[np.float32] | None
) -> tuple[AuditedImages, dict[str, str]]:
    """Read all images of a run's data once.

    Args:
        data: The data, set up.
        samples: Split and file of each image that the check has found readable.
        features: Features of each, `N D`, NaN where it turned out to be unreadable; None for none.

    Returns:
        The images that can be read; file -> reason of those that cannot, in all splits and further tests.
    """
    files = [sample.file for _, sample in samples]
    measured = measure_images(files, data.checks, data.decode_options)
    broken = {str(each.path): each.reason for each in unreadable(data.checks, data.on_unreadable == "read")}
    broken |= {**data.skipped, **measured.failed}
    rows = [place for place, row in enumerate(measured.rows) if files[row] not in broken]
    names = [data.index.relative(Path(file)) for file in files]
    rows.sort(key=lambda place: (rank(samples[measured.rows[place]][0]), names[measured.rows[place]]))
    kept = [measured.rows[place] for place in rows]
    checks = [data.checks[files[row]] for row in kept]
    return (
        AuditedImages(
            data.index.root,
            tuple(map(as_text, data.classes)),
            [names[row] for row in kept],
            [samples[row][0] for row in kept],
            np.array([samples[row][1].label for row in kept], np.int64),
            [measured.images[place] for place in rows],
            [check.format for check in checks],
            [check.damage for check in checks],
            None if features is None else features[kept],
            _columns(data.index, [names[row] for row in kept]),
        ),
        broken,
    )


def _columns(index: ImageIndex, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the further columns of the table that an index is of, with a cell for each image."""
    if index.columns is None:
        return {}
    row_of = {as_text(file): row for row, file in enumerate(index.columns.files)}
    rows = [row_of.get(name) for name in names]
    return {
        column: ["" if row is None else as_text(cells[row]) for row in rows]
        for column, cells in index.columns.cells.items()
    }
