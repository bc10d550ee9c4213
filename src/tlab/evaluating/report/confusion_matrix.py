"""The confusion matrix as a table whose cells open to their images."""

from collections.abc import Sequence
from html import escape
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tlab.core.text import as_text, counted
from tlab.evaluating.predicted_images import PredictedImages
from tlab.evaluating.report.pictures import Pictures, link_to

MOST_CLASSES = 30
MOST_IN_CELL = 12  # images that a cell opens to


class Confusion(NamedTuple):
    """Which images are in which cell.

    Attributes:
        classes: The classes that are shown, as labels.
        rows: (Label, predicted class) -> numbers of the images, the highest loss first.
    """

    classes: list[int]
    rows: dict[tuple[int, int], list[int]]


def confusion(images: PredictedImages) -> Confusion:
    """Return the cells of all classes among labels and predictions; of many, those with the most errors."""
    labels, predicted, wrong = images.labels, images.predicted, ~images.correct
    rows: dict[tuple[int, int], list[int]] = {}
    for row in np.argsort(-images.losses, kind="stable").tolist():
        rows.setdefault((int(labels[row]), int(predicted[row])), []).append(row)
    found = np.unique(np.concatenate([labels, predicted]))
    errors = np.bincount(np.concatenate([labels[wrong], predicted[wrong]]), minlength=found.max() + 1)
    order = found[np.argsort(-errors[found], kind="stable")]
    return Confusion(sorted(order[:MOST_CLASSES].tolist()), rows)


def pictured(found: Confusion) -> list[int]:
    """Return the images that get a picture, in that order: the cells of errors take turns, then the others.

    Within a cell the highest loss comes first.
    """
    shown = {cell: rows[:MOST_IN_CELL] for cell, rows in found.rows.items() if {*cell} <= {*found.classes}}
    wrong = zip_longest(*(rows for (label, told), rows in shown.items() if label != told))
    right = zip_longest(*(rows for (label, told), rows in shown.items() if label == told))
    return [row for row in chain(chain.from_iterable(wrong), chain.from_iterable(right)) if row is not None]


def matrix(found: Confusion, classes: Sequence[str]) -> str:
    """Return the table: a row per class, a column per prediction."""
    heads = "".join(f"<th scope='col'><span>{escape(classes[told])}</span></th>" for told in found.classes)
    lines = []
    for label in found.classes:
        total = sum(len(rows) for (own, _), rows in found.rows.items() if own == label)
        cells = "".join(_cell(found, classes, label, told, total) for told in found.classes)
        lines.append(f"<tr><th scope='row'>{escape(classes[label])}</th>{cells}<td>{total:,}</td></tr>")
    return (
        "<div class='scroll' tabindex='0' role='region' aria-label='Confusion matrix'><table id='confusion-table'>"
        "<caption>Images by class and prediction</caption><thead><tr><th scope='col'>class ↓ predicted →</th>"
        f"{heads}<th scope='col'>all</th></tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(found: Confusion, classes: Sequence[str], label: int, told: int, total: int) -> str:
    count = len(found.rows.get((label, told), ()))
    if not count:
        return "<td></td>"
    kind = "right" if label == told else "wrong"
    words = f"{counted(count, 'image')} of {classes[label]} predicted as {classes[told]}"
    return (
        f"<td class='{kind}' style='--share: {count / total:.3f}'><button type='button' data-cell='{label}/{told}' "
        f"title='{escape(words)}'>{count:,}</button></td>"
    )


def cells(found: Confusion, images: PredictedImages, pictures: Pictures, folder: Path) -> dict[str, Any]:
    """Return what each cell opens to, as plain data: words, number of images, and the first of them.

    Args:
        found: The cells.
        images: All images.
        pictures: Their pictures.
        folder: Folder of the page.
    """
    classes = images.classes
    return {
        f"{label}/{told}": {
            "words": f"{classes[label]} predicted as {classes[told]}",
            "images": len(rows),
            "shown": [
                {
                    "picture": pictures.places.get(images.samples[row].file),
                    "name": as_text(images.samples[row].path.name),
                    "caption": images.caption(row),
                    "link": link_to(images.samples[row].path, folder),
                }
                for row in rows[:MOST_IN_CELL]
            ],
        }
        for (label, told), rows in found.rows.items()
        if {label, told} <= {*found.classes}
    }
