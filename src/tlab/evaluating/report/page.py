"""`report_<split>.html`: what a run is worth on a split, and the images that say so, as one HTML page."""

import json
from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from scipy.special import softmax

from tlab.core.files import write_text
from tlab.core.text import as_text, counted, few
from tlab.dashboards.summary_table import TITLES
from tlab.evaluating.classes import class_figures
from tlab.evaluating.evaluation import Evaluation
from tlab.evaluating.misclassified import Misclassified, explained
from tlab.evaluating.predicted_images import PredictedImages
from tlab.evaluating.report.confusion_matrix import Confusion, cells, confusion, matrix, pictured
from tlab.evaluating.report.pictures import Pictures, image_tag, link_to
from tlab.evaluating.report.reliability_chart import reliability_chart
from tlab.evaluating.report.tables import (
    MeasuredSet,
    classes_table,
    measured_sets,
    percent,
    sets_tables,
    slices_table,
)
from tlab.evaluating.slices import slices
from tlab.models.calibration.reliability import reliability
from tlab.pages.frame import framed, part, tile_list
from tlab.runs.directory import RunDirectory
from tlab.runs.trained_model import TrainedModel

PARTS = Path(__file__).with_name("parts")
MOST_MISTAKES = 24
SQUARE = 224  # most pixels a side of an image as the network sees it
SHARES = ("accuracy", "balanced_accuracy", "macro_f1")  # which are shown in percent


def write_report(found: Evaluation, model: TrainedModel, file: Path) -> None:
    """Write the report of an evaluation.

    Args:
        found: The evaluation.
        model: The network that was measured.
        file: The page; images are linked relative to its folder.
    """
    images, pictures = PredictedImages.of(found), Pictures()
    accuracy = float(images.correct.mean())
    sliced, undivided = slices(found.data, images.samples, images.correct)
    mistakes, missing = explained(model, images, MOST_MISTAKES)
    table = confusion(images)
    squares = [_squares(each, pictures) for each in mistakes]
    neighbors = [sample.file for each in mistakes for sample, _ in each.neighbors]
    thumbnails = [*neighbors, *(images.samples[row].file for row in pictured(table))]
    pictures.add_files(thumbnails, model.view.options)
    cards = [
        _card(each, own, images, found, pictures, file.parent) for each, own in zip(mistakes, squares, strict=True)
    ]
    opened = cells(table, images, pictures, file.parent)
    remarks = [*_unread(found), *_absent(found), *found.remarks, *missing, *_left_out(pictures)]
    body = Template(part("page.html", PARTS)).substitute(
        side=SQUARE,
        matrix=matrix(table, images.classes),
        about_matrix=_about_matrix(table, images),
        mistakes="".join(cards) or ("<p class='say'>There is none.</p>" * bool(images.correct.all())),
        about_mistakes=_about_mistakes(mistakes, images),
        classes=classes_table(class_figures(images.labels, images.predicted, images.classes)),
        slices=slices_table(sliced, accuracy) if sliced else "",
        undivided=escape(undivided),
        reliability=_reliability(found, images),
        about_reliability=escape(found.of_temperature[0].upper() + found.of_temperature[1:]),
        sets=_sets(found),
        data=json.dumps({"pictures": pictures.urls, "cells": opened}).replace("<", "\\u003c"),
        script=part("table.js") + part("page.js", PARTS),
    )
    headline = f"{percent(accuracy)} of {counted(images.samples, 'image')} predicted right"
    items = "".join(f"<li>{escape(as_text(remark))}</li>" for remark in remarks)
    page = framed(
        as_text(f"tlab evaluation · {found.split} of {found.root}"),
        f"{found.split}: {headline}",
        headline,
        f"{escape(as_text(found.split))} of {escape(as_text(found.root.name))}, measured with "
        f"<code>{escape(as_text(str(found.trained.checkpoint)))}</code>. Intervals are 95 % intervals.",
        _tiles(found),
        body,
        notes=f"<ul class='notes' aria-label='Beware'>{items}</ul>" if items else "",
        head=f'<link rel="icon" href="data:,"><style>{part("page.css", PARTS)}</style>',
    )
    write_text(file, as_text(page))


def _tiles(found: Evaluation) -> str:
    tiles = []
    for name, measure in found.measures.items():
        if measure is not None:
            texts = [percent(each) if name in SHARES else f"{each:.3f}" for each in measure]
            title = TITLES.get(name, name.replace("_", " "))
            tiles.append((title[0].upper() + title[1:], texts[0], f"{texts[1]} to {texts[2]}"))
    unknown = found.metrics.get(f"{found.split}/unknown")
    if unknown is not None:
        tiles.append(("Unlike training", percent(unknown), "of the images"))
    return tile_list(tiles)


def _unread(found: Evaluation) -> Iterator[str]:
    """Yield a sentence for each reason for which files cannot be read."""
    reasons = Counter([*(each.reason for each in found.data.unreadable), *found.data.skipped.values()])
    for reason, count in reasons.most_common():
        yield f"{counted(count, 'file')} cannot be read and {'is' if count == 1 else 'are'} not counted: {reason}."


def _absent(found: Evaluation) -> Iterator[str]:
    if found.absent:
        yield f"There is no image of {few(found.absent, 10)}."


def _left_out(pictures: Pictures) -> Iterator[str]:
    if pictures.left_out:
        shown = counted(len(pictures.places), "thumbnail")
        yield f"The page shows {shown}; {pictures.left_out:,} more have none here, but their links open the files."


def _about_matrix(table: Confusion, images: PredictedImages) -> str:
    wrong = ~images.correct
    told = f"A row is a class, a column what it is predicted as; {counted(int(wrong.sum()), 'error')} in all."
    if len({*images.labels, *images.predicted}) > len(table.classes):
        shown = np.isin(images.labels, table.classes) & np.isin(images.predicted, table.classes)
        told += (
            f" Of {counted(images.classes, 'class', 'classes')} these are the {len(table.classes)} with the most "
            f"errors; {counted(int((wrong & ~shown).sum()), 'error')} with others not in it."
        )
    return told


def _about_mistakes(mistakes: list[Misclassified], images: PredictedImages) -> str:
    errors = int((~images.correct).sum())
    if not mistakes:
        return ""
    some = f"The {len(mistakes)} with the highest loss of {errors:,}" if len(mistakes) < errors else "All of them"
    told = f"{some}, as the network sees them."
    if any(each.of_true is not None for each in mistakes):
        told += (
            " The heat maps (LayerCAM) show which places speak for a class, the bright ones most; each is scaled "
            "to its own highest value."
        )
    if any(each.neighbors for each in mistakes):
        told += (
            " Below each the training images that are nearest by the cosine of what this network's own head gets, "
            "the pooled features of its last stage; red are those of another class."
        )
    return told


def _squares(mistake: Misclassified, pictures: Pictures) -> list[int]:
    """Add the image, and the same under its heat maps, and return their places."""
    shown = (mistake.square, mistake.of_predicted, mistake.of_true)
    return [pictures.add(x, SQUARE) for x in shown if x is not None]


def _card(
    mistake: Misclassified,
    squares: list[int],
    images: PredictedImages,
    found: Evaluation,
    pictures: Pictures,
    folder: Path,
) -> str:
    """Return the card of an image: it, its heat maps, and its neighbors."""
    row = mistake.row
    sample, names = images.samples[row], images.classes
    own, told = names[images.labels[row]], names[images.predicted[row]]
    path = found.data.index.relative(sample.path)
    titles = [
        ("image", f"class {own}"),
        ("predicted", f"for {told}, {percent(images.probabilities[row, images.predicted[row]])}"),
        ("true", f"for {own}, {percent(images.probabilities[row, images.labels[row]])}"),
    ]
    seen = "".join(
        f"<figure class='{kind}'>{image_tag(place, title)}<figcaption>{escape(title)}</figcaption></figure>"
        for place, (kind, title) in zip(squares, titles, strict=False)
    )
    near = "".join(
        f"<a href='{escape(link_to(each.path, folder))}' title='{escape(as_text(each.path.name))}'>"
        f"{image_tag(pictures.places.get(each.file), each.path.name)}"
        f"<span class='{'same' if each.label == sample.label else 'other'}'>{escape(names[each.label])}</span> "
        f"<small>{cosine:.2f}</small></a>"
        for each, cosine in mistake.neighbors
    )
    return (
        f"<article><h3>{escape(own)} predicted as {escape(told)} <small>{escape(images.caption(row))}, "
        f"loss {images.losses[row]:.2f}</small></h3>"
        f"<p><a href='{escape(link_to(sample.path, folder))}'>{escape(path)}</a></p>"
        f"<div class='seen'>{seen}</div><div class='near'>{near}</div></article>"
    )


def _reliability(found: Evaluation, images: PredictedImages) -> str:
    """Return the chart and its legend: probabilities as they are, and with the checkpoint's temperature."""
    curves, legend = [], []
    for number, divisor in enumerate(dict.fromkeys((1.0, found.trained.temperature.value))):
        confidence = softmax(found.logits.astype(np.float64) / divisor, axis=1).max(axis=1)
        name = "as they are" if divisor == 1 else f"with temperature {divisor:.3g}"
        curves.append((name, reliability(confidence, images.correct)))
        ece = found.by_divisor[divisor]["ece"]
        told = f": ECE {ece.value:.3f} ({ece.low:.3f} to {ece.high:.3f})" if ece else ""
        legend.append(f"<li class='curve{number}'>{escape(name + told)}</li>")
    return f"{reliability_chart(curves)}<ul class='legend'>{''.join(legend)}</ul>"


def _sets(found: Evaluation) -> str:
    """Return the section of the sets that the run was measured on; nothing where this is the only one."""
    trained = found.trained
    run = RunDirectory.of_checkpoint(trained.checkpoint, trained.classes)
    if run is None or trained.checkpoint.name not in (run.selected.name, run.refit.name):
        return ""
    own = {name.removeprefix(f"{found.split}/"): value for name, value in found.metrics.items()}
    own |= {"ece": ece.value} if (ece := found.measures["ece"]) else {}
    sets = measured_sets(run, MeasuredSet(found.title, found.images, own))
    if len(sets) < 2:
        return ""
    before = ", before its refit" if trained.refitted else ""
    return (
        "<section id='sets'><h2>Sets side by side</h2><p class='say'>This evaluation, and what the run itself has "
        f"measured{before}. Intervals are Wilson's.</p>{sets_tables(sets, trained.classes)}</section>"
    )
