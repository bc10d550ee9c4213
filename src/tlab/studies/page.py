"""The figure of a study as one HTML file that needs no network."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import plotly
from omegaconf import DictConfig

from tlab.comparison.phrases import is_share, value
from tlab.core.files import write_text
from tlab.core.text import as_text, counted
from tlab.pages.frame import framed, part, tile_list
from tlab.pages.table import Cell, table
from tlab.studies.findings import LearningCurve, how_sure
from tlab.studies.plot import PLOT, caption
from tlab.studies.points import Figure, Line, Point

MOST_TILES = 6


def write_page(
    cfg: DictConfig, figure: Figure, curves: Sequence[LearningCurve], said: Sequence[str], directory: Path
) -> Path:
    """Write `study.html` into the study's directory and return its path.

    Args:
        cfg: Configuration of tlab.study.
        figure: The figure.
        curves: Lines with a fitted law.
        said: What it shows, in sentences.
        directory: The study's directory.
    """
    sections = [
        f'<section><h2>Figure</h2><p class="say">{caption(figure, curves)}</p>'
        '<div class="chart" id="figure"></div></section>',
        f'<section><h2>What it shows</h2><p class="say">{escape(how_sure(figure))}</p>'
        f'<ul class="methods">{_list(said)}</ul></section>',
        f'<section><h2>What is known</h2><p class="say">{escape(cfg.paper)}</p></section>' if cfg.paper else "",
        '<section><h2>Points</h2><p class="say">Means, and in brackets the lowest and the highest seed.</p>'
        f"{_table(cfg, figure)}</section>",
    ]
    data = json.dumps(_data(cfg, figure, curves), ensure_ascii=False).replace("<", "\\u003c")
    scripts = [part("theme.js"), part("table.js"), part("figure.js", Path(__file__).parent)]
    page = framed(
        f"tlab study · {cfg.name}",
        f"Study {cfg.name}",
        cfg.title,
        f'For a paper: <a href="{PLOT}">{PLOT}</a>. The runs compared: <a href="report.html">report.html</a>.',
        _tiles(cfg, figure),
        "\n".join(["<main>", *sections, "</main>", "<script>", f"const data = {data};", *scripts, "</script>"]),
        notes=f"<ul class='notes' aria-label='Beware'>{_list(figure.remarks)}</ul>" if figure.remarks else "",
        head=f'<link rel="icon" href="data:,"><script>{plotly.offline.get_plotlyjs()}</script>',
    )
    file = directory / "study.html"
    write_text(file, as_text(page))
    return file


def _tiles(cfg: DictConfig, figure: Figure) -> str:
    tiles = []
    for line in figure.lines[:MOST_TILES]:
        last = line.points[-1]
        at = f"{cfg.x_label}: {last.x}, " if line.moves else ""
        tiles.append((line.name, value(last.mean, figure.metric), f"{at}{counted(last.values, 'seed')}"))
    return tile_list(tiles)


def _list(sentences: Sequence[str]) -> str:
    return "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)


def _table(cfg: DictConfig, figure: Figure) -> str:
    """Return the points as a table: a row a place, a column a line, of means with the range over the seeds."""
    rows: list[tuple[str, list[Cell]]] = [
        ("", [(escape(label), place), *(_cell(line, place, figure.metric) for line in figure.lines)])
        for place, label in (figure.ticks or {0.0: ""}).items()
    ]
    return table("points", escape(figure.metric), [cfg.x_label, *(line.name for line in figure.lines)], rows)


def _cell(line: Line, place: float, metric: str) -> Cell:
    point = next((each for each in line.points if each.position == place or not line.moves), None)
    if point is None:
        return "–", None
    among = f"{value(point.low, metric, unit=False)} to {value(point.high, metric)}"
    return f"{value(point.mean, metric)} ({among if len(point.values) > 1 else 'one seed'})", point.mean


def _data(cfg: DictConfig, figure: Figure, curves: Sequence[LearningCurve]) -> dict[str, Any]:
    """Return what figure.js draws."""
    return {
        "share": is_share(figure.metric),
        "metric": figure.metric,
        "x": cfg.x_label,
        "log": figure.is_log,
        "ticks": [*figure.ticks.items()],
        "lines": [
            {"name": line.name, "moves": line.moves, "points": [_of_point(point) for point in line.points]}
            for line in figure.lines
        ],
        "laws": [{"line": figure.lines.index(curve.line), **curve.drawn(figure.metric)} for curve in curves],
    }


def _of_point(point: Point) -> dict[str, Any]:
    own = {"x": point.position, "label": point.x, "mean": point.mean, "low": point.low, "high": point.high}
    return {**own, "seeds": [[seed, each] for seed, each in point.values.items()]}
