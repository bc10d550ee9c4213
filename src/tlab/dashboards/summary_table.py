"""The summary table that is printed when a run ends."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tlab.core.text import duration, short_path
from tlab.models.calibration.measures import interval_words, share_of
from tlab.runs.directory import MEASURES, PERCENT, tests_in

SPLITS = ("train", "val", "test", "all")
TITLES = {
    "ece": "ECE",
    "nll": "NLL",
    "brier": "Brier",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "kappa": "Cohen's kappa",
}


def print_summary_table(
    console: Console,
    metrics: Mapping[str, float],
    phases: Sequence[Mapping[str, Any]],
    paths: Mapping[str, Path],
    comparison: Mapping[str, Mapping[str, float]] | None = None,
    remark: str | None = None,
    images: Mapping[str, int] | None = None,
) -> None:
    """Print metrics per split, time and speed per phase, runs to compare with, and where things were written.

    Args:
        console: Console to print on.
        metrics: `<split>/<measure>` -> value, accuracy and F1 as shares of 1; other names are left out.
        phases: Phases in order, each with `name`, `start` (first epoch, from 0), `epochs`, `seconds`,
            `images_per_second` and `trained` (group names).
        paths: Label -> path, printed on a line of its own and never broken, so that it can be copied.
        comparison: Name of a run -> its metrics, for instance this run's and a baseline's.
        remark: A sentence on the result.
        images: Split -> number of its images.
    """
    print_metrics(console, metrics, images)
    if phases:
        console.print(_phases_table(phases))
    if comparison:
        console.print(_comparison_table(comparison))
    if remark:
        console.print(Text(remark))
    print_paths(console, paths)


def print_paths(console: Console, paths: Mapping[str, Path]) -> None:
    """Print each path on a line of its own, below the others and never broken, so that it can be copied."""
    label = max((len(name) for name in paths), default=0)
    for name, path in paths.items():
        line = Text.assemble((f"{name:<{label}}  ", "bold"), str(short_path(path)))
        console.print(line, soft_wrap=True)


def print_metrics(console: Console, metrics: Mapping[str, float], images: Mapping[str, int] | None = None) -> None:
    """Print one table: a row per split, a column per measure; with numbers of images also accuracy's interval.

    Training's has none: it is of images that are learned, augmented, while the network changes.
    """
    further = [f"test/{name}" for name in tests_in(metrics)]
    splits = [split for split in (*SPLITS, *further) if any(f"{split}/{m}" in metrics for m in MEASURES)]
    measures = [m for m in MEASURES if any(f"{split}/{m}" in metrics for split in splits)]
    rows = [_row(split, measures, metrics, images) for split in splits]
    table = _table("Result", *rows[0])
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


def _row(
    split: str, measures: Sequence[str], metrics: Mapping[str, float], images: Mapping[str, int] | None
) -> dict[str, str]:
    row = {"split": split}
    if images:
        row["images"] = f"{images[split]:,}" if split in images else "–"
    for measure in measures:
        row[measure] = _value(metrics, f"{split}/{measure}")
        if images and measure == "acc":
            number = None if split == "train" else images.get(split)
            row["95 % interval"] = interval_words(share_of(metrics.get(f"{split}/acc"), number))
    return row


def print_measures(console: Console, measures: Mapping[str, tuple[float, float, float] | None]) -> None:
    """Print measures with their intervals, see `models.calibration.measures`; a dash for one that there is not."""
    table = _table("Measures", "measure", "value", "95 % interval")
    for name, found in measures.items():
        value, low, high = ("–",) * 3 if found is None else (f"{number:.4f}" for number in found)
        table.add_row(TITLES.get(name, name.replace("_", " ")), value, "–" if found is None else f"{low} to {high}")
    console.print(table)


def _phases_table(phases: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("Phases", "phase", "epochs", "time", "images/s")
    table.add_column("trained", overflow="fold")
    for phase in phases:
        table.add_row(
            str(phase["name"]),
            _range(phase["start"] + 1, phase["start"] + phase["epochs"]),
            duration(phase["seconds"]),
            f"{phase['images_per_second']:,.0f}",
            _groups(list(phase["trained"])),
        )
    if len(phases) > 1:
        table.add_section()
        table.add_row("total", "", duration(sum(phase["seconds"] for phase in phases)), "", "")
    return table


def _comparison_table(comparison: Mapping[str, Mapping[str, float]]) -> Table:
    names = [f"{split}/{m}" for split in ("val", "test") for m in ("acc", "f1")]
    shown = [name for name in names if any(name in metrics for metrics in comparison.values())]
    table = _table("Comparison", "run", *shown)
    for run, metrics in comparison.items():
        table.add_row(run, *(_value(metrics, name) for name in shown))
    return table


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _value(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return "–"
    return f"{metrics[name]:.1%}" if name.split("/")[-1] in PERCENT else f"{metrics[name]:.3f}"


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}–{last}"


def _groups(names: list[str]) -> str:
    """Name up to three groups; of more, the first and the last ones."""
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} … {', '.join(names[-2:])} ({len(names)})"
