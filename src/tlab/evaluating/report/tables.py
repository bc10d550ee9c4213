"""The tables of a report: classes, slices, and the sets that the run was measured on."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from tlab.core.text import as_text
from tlab.evaluating.classes import ClassFigures
from tlab.evaluating.slices import Slice
from tlab.models.calibration.measures import Measure, interval_words, share_of
from tlab.pages.table import Cell, table
from tlab.runs.directory import RunDirectory, tests_in


class MeasuredSet(NamedTuple):
    """What was measured on a set of images: its name, their number where it is known, and the metrics by name."""

    name: str
    images: int | None
    metrics: Mapping[str, float]


def percent(number: float | None) -> str:
    """Return a share as text; a dash for None."""
    return "–" if number is None else f"{100 * number:.1f} %"


def classes_table(figures: Sequence[ClassFigures]) -> str:
    """Return a row per class."""
    heads = ["class", "images", "accuracy = recall", "95 % interval", "precision", "95 % interval", "F1"]
    rows: list[tuple[str, list[Cell]]] = [
        (
            "",
            [
                (escape(each.name), each.name),
                (f"{each.images:,}", each.images),
                *_share_cells(each.recall),
                *_share_cells(each.precision),
                (percent(each.f1), each.f1),
                (escape(each.taken_for), each.taken_for),
            ],
        )
        for each in figures
    ]
    return table("classes-table", "Every class", [*heads, "taken for"], rows)


def slices_table(slices: Sequence[Slice], whole: float) -> str:
    """Return a row per slice, with its interval drawn beside the accuracy of all images."""
    heads = ["by", "slice", "images", "accuracy", "95 % interval", "beside all images"]
    rows: list[tuple[str, list[Cell]]] = [
        (
            f"class='{'off' if each.is_off else ''}'",
            [
                (escape(each.by), each.by),
                (escape(each.name), f"{each.by} {each.order}"),
                (f"{each.images:,}", each.images),
                *_share_cells(each.accuracy),
                (_range(each.accuracy, whole, each.is_off), each.accuracy.value - whole),
            ],
        )
        for each in slices
    ]
    return table("slices-table", "Accuracy by slice", heads, rows)


def _share_cells(found: Measure | None) -> list[Cell]:
    if found is None:
        return [("–", None), ("–", None)]
    return [(percent(found.value), found.value), (interval_words(found), found.low)]


def _range(found: Measure, whole: float, is_off: bool) -> str:
    told = ("above" if found.value > whole else "below") if is_off else ""
    return (
        f"<div class='range' style='--low: {found.low:.4f}; --high: {found.high:.4f}; --at: {found.value:.4f}; "
        f"--all: {whole:.4f}'><i></i><b></b><u></u></div><span>{told}</span>"
    )


def measured_sets(run: RunDirectory, own: MeasuredSet) -> list[MeasuredSet]:
    """Return what is measured now, and what the run has measured: val, test, and its further tests."""
    metrics, numbers = run.metrics(), run.images()
    names = ["val", "test", *(f"test/{name}" for name in tests_in(metrics))]
    others = [
        MeasuredSet(
            name,
            numbers.get(name),
            {key.removeprefix(f"{name}/"): value for key, value in metrics.items() if key.startswith(f"{name}/")},
        )
        for name in names
        if f"{name}/acc" in metrics and name != own.name
    ]
    return [own, *others]


def sets_tables(sets: Sequence[MeasuredSet], classes: Sequence[str]) -> str:
    """Return a row per set, and a row per class with its accuracy in each set."""
    measures = {"acc": "accuracy", "f1": "macro F1", "loss": "loss", "ece": "ECE"}
    rows: list[tuple[str, list[Cell]]] = []
    for each in sets:
        accuracy, images = each.metrics["acc"], each.images
        rows.append(
            (
                "",
                [
                    (escape(as_text(each.name)), each.name),
                    ("–" if images is None else f"{images:,}", images),
                    (percent(accuracy), accuracy),
                    _share_cells(share_of(accuracy, images))[1],
                    *(_number(each.metrics.get(name), name) for name in list(measures)[1:]),
                ],
            )
        )
    heads = ["set", "images", "accuracy", "95 % interval", *list(measures.values())[1:]]
    by_set = table("sets-table", "Sets side by side", heads, rows)
    if len(told := [each for each in sets if any(name.startswith("acc_class/") for name in each.metrics)]) < 2:
        return by_set
    lines: list[tuple[str, list[Cell]]] = []
    for name in classes:
        values = [each.metrics.get(f"acc_class/{name}") for each in told]
        lines.append(("", [(escape(as_text(name)), name), *((percent(value), value) for value in values)]))
    heads = ["class", *(as_text(each.name) for each in told)]
    return by_set + table("set-classes-table", "Accuracy of every class in each set", heads, lines)


def _number(value: float | None, name: str) -> Cell:
    if value is None:
        return "–", None
    return (percent(value) if name == "f1" else f"{value:.3f}"), value
