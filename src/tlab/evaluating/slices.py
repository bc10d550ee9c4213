"""Accuracy by what images are like: their size, brightness and shape, and the columns of their table."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlab.auditing.image_measures import measure_images
from tlab.core.text import as_text, counted, few
from tlab.data.datamodule import ImageDataModule
from tlab.data.sources.samples import Sample
from tlab.data.sources.table_columns import MISSING
from tlab.models.calibration.measures import Measure, share

BINS = 5  # of numbers, with about as many images each
MOST_VALUES = 12  # of a column; the rest are one slice
FEW = 8  # different numbers that are slices of their own


# Of each image the slice that it is in, by place and name; None where that is not known
Division = Sequence[tuple[int, str] | None]


@dataclass(frozen=True)
class Slice:
    """Some of the images.

    Attributes:
        by: What divides the images.
        name: Which of them these are.
        order: Place among those of the same division.
        images: Number of the images.
        accuracy: The share of them that are predicted right.
        is_off: Whether the accuracy of all images lies outside its interval.
    """

    by: str
    name: str
    order: int
    images: int
    accuracy: Measure
    is_off: bool


def slices(data: ImageDataModule, samples: Sequence[Sample], correct: NDArray[np.bool_]) -> tuple[list[Slice], str]:
    """Return the slices of images, and a sentence about what does not divide them, if anything.

    Args:
        data: Their data.
        samples: The images, N.
        correct: Whether each is predicted right: N.
    """
    found, undivided, whole = list[Slice](), list[str](), float(correct.mean())
    for by, division in {**_by_measures(data, samples), **_by_columns(data, samples)}.items():
        groups = Counter(group for group in division if group is not None)
        if len(groups) < 2:
            undivided.append(by)
            continue
        right = Counter(group for group, is_right in zip(division, correct, strict=True) if is_right)
        for place, name in sorted(groups):
            accuracy = share(right[place, name], groups[place, name])
            assert accuracy is not None
            is_off = not accuracy.low <= whole <= accuracy.high
            found.append(Slice(by, name, place, groups[place, name], accuracy, is_off))
    told = f"None by {few(undivided, 10)}: the same of all images, or another of most." if undivided else ""
    return found, told


def _by_measures(data: ImageDataModule, samples: Sequence[Sample]) -> dict[str, Division]:
    """Return the divisions by size, brightness and shape."""
    measured = measure_images([sample.file for sample in samples], data.checks, data.decode_options)
    rows = np.full((3, len(samples)), np.nan)
    for row, image in zip(measured.rows, measured.images, strict=True):
        width, height = image.size
        rows[:, row] = min(width, height), image.mean.mean(), width / height
    texts: dict[str, Callable[[float], str]] = {
        "shorter side in px": "{:.0f}".format,
        "brightness (0 to 1)": "{:.2f}".format,
        "width / height": "{:.2f}".format,
    }
    return {by: _by_number(values, text) for (by, text), values in zip(texts.items(), rows, strict=True)}


def _by_number(values: NDArray[np.float64], text: Callable[[float], str]) -> Division:
    """Return the division into bins of about as many images each; NaN is in none."""
    known = values[~np.isnan(values)]
    if not len(known):
        return [None] * len(values)
    edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, values)
    names = {}
    for place in np.unique(bins[~np.isnan(values)]).tolist():
        own = values[(bins == place) & ~np.isnan(values)]
        names[place] = " to ".join(dict.fromkeys((text(own.min()), text(own.max()))))
    return [
        None if np.isnan(value) else (place, names[place])
        for value, place in zip(values, bins.tolist(), strict=True)
    ]


def _by_columns(data: ImageDataModule, samples: Sequence[Sample]) -> dict[str, Division]:
    """Return the division by each further column of the table that labels the images; none without a table."""
    columns = data.index.columns
    if columns is None:
        return {}
    row_of = {file: row for row, file in enumerate(columns.files)}
    rows = [row_of.get(sample.file.removeprefix(f"{data.index.root}/")) for sample in samples]
    return {
        as_text(name): _by_value([None if row is None else cells[row] for row in rows])
        for name, cells in columns.cells.items()
    }


def _by_value(cells: Sequence[str | None]) -> Division:
    """Return the division by the value in a column, the most frequent first; by bins where it is a number."""
    counts = Counter(cell for cell in cells if cell is not None)
    if len(counts) > FEW and (numbers := _numbers(cells)) is not None:
        return [
            (BINS, "(no number)") if group is None and cell is not None else group
            for cell, group in zip(cells, _by_number(numbers, "{:.4g}".format), strict=True)
        ]
    if len(counts) > max(MOST_VALUES, len(cells) / 2):
        return [None] * len(cells)  # names, which say nothing of new images
    common = {
        value: (place, as_text(value) or "(empty)")
        for place, (value, _) in enumerate(counts.most_common(MOST_VALUES))
    }
    rest = (MOST_VALUES, counted(len(counts) - len(common), "other value"))
    return [None if cell is None else common.get(cell, rest) for cell in cells]


def _numbers(cells: Sequence[str | None]) -> NDArray[np.float64] | None:
    """Return cells as numbers, NaN for one that is missing or infinite; None where one of them is none."""
    try:
        numbers = np.array([np.nan if not cell or cell.casefold() in MISSING else float(cell) for cell in cells])
    except ValueError:
        return None
    return np.where(np.isfinite(numbers), numbers, np.nan)
