"""The figure of a study as one HTML file that needs no network."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import plotly
from omegaconf import DictConfig

from tlab.comparison.phrases import is_share, value
from tlab.config.validation import best_is
from tlab.core.files import write_text
from tlab.core.text import as_text, counted
from tlab.pages.frame import framed, part, tile_list
from tlab.studies.findings import INTERVAL, LearningCurve
from tlab.studies.points import Figure, Line, Point

MOST_TILES = 6
WIDE = 8  # ratio of the largest to the smallest number from which the axis is logarithmic


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
    seeds = {seed for line in figure.lines for point in line.points for seed in point.values}
    band = (
        f"Means of {len(seeds)} seeds, with bands from the lowest to the highest."
        if len(seeds) > 1
        else "One seed."
    )
    laws = " Dashed: fitted laws, over their 95 % intervals." if curves else ""
    sections = [
        f'<section><h2>Figure</h2><p class="say">{band}{laws}</p><div class="chart" id="figure"></div></section>',
        f'<section><h2>What is known</h2><p class="say">{escape(cfg.paper)}</p></section>' if cfg.paper else "",
        f"<section><h2>Points</h2>{_table(cfg, figure)}</section>",
    ]
    data = json.dumps(_data(cfg, figure, curves), ensure_ascii=False).replace("<", "\\u003c")
    script = f"const data = {data};\n{part('theme.js')}\n{part('figure.js', Path(__file__).parent)}"
    notes = "".join(f"<li>{escape(remark)}</li>" for remark in figure.remarks)
    page = framed(
        f"tlab study · {cfg.name}",
        f"Study {cfg.name}",
        cfg.title,
        escape(" ".join(said)) + ' The runs compared: <a href="report.html">report.html</a>.',
        _tiles(cfg, figure),
        "\n".join(["<main>", *sections, "</main>", f"<script>{script}</script>"]),
        notes=f"<ul class='notes' aria-label='Beware'>{notes}</ul>" if notes else "",
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


def _table(cfg: DictConfig, figure: Figure) -> str:
    """Return the points as a table: a row a place, a column a line, of means with the range over the seeds."""
    moving = [line for line in figure.lines if line.moves]
    labels = {point.position: point.x for line in moving for point in line.points} or {0.0: ""}
    heads = "".join(f"<th>{escape(line.name)}</th>" for line in figure.lines)
    rows = "".join(
        f"<tr><td class='text'>{escape(labels[position])}</td>"
        + "".join(f"<td>{_cell(line, position, figure.metric)}</td>" for line in figure.lines)
        + "</tr>"
        for position in sorted(labels)
    )
    return (
        f"<div class='scroll'><table><caption>{escape(figure.metric)}</caption><thead><tr><th class='text'>"
        f"{escape(cfg.x_label)}</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(line: Line, position: float, metric: str) -> str:
    point = next((each for each in line.points if each.position == position or not line.moves), None)
    if point is None:
        return "–"
    if point.low == point.high:
        return value(point.mean, metric)
    return f"{value(point.mean, metric)} ({value(point.low, metric, unit=False)} to {value(point.high, metric)})"


def _data(cfg: DictConfig, figure: Figure, curves: Sequence[LearningCurve]) -> dict[str, Any]:
    """Return what study.js draws."""
    moving = [point for line in figure.lines if line.moves for point in line.points]
    ticks = {point.position: point.x for point in moving}
    is_log = figure.is_number and min(ticks, default=0) > 0 and max(ticks) >= WIDE * min(ticks)
    return {
        "share": is_share(figure.metric),
        "metric": figure.metric,
        "x": cfg.x_label,
        "log": is_log,
        "ticks": [[position, ticks[position]] for position in sorted(ticks)],
        "lines": [
            {"name": line.name, "moves": line.moves, "points": [_of_point(point) for point in line.points]}
            for line in figure.lines
        ],
        "laws": [_of_law(curve, figure) for curve in curves],
    }


def _of_point(point: Point) -> dict[str, Any]:
    own = {"x": point.position, "label": point.x, "mean": point.mean, "low": point.low, "high": point.high}
    return {**own, "seeds": [[seed, each] for seed, each in point.values.items()]}


def _of_law(curve: LearningCurve, figure: Figure) -> dict[str, Any]:
    """Return a law up to twice the largest size."""
    sizes = np.geomspace(curve.sizes[0], 2 * curve.sizes[-1], 60)
    bounds: Any = [None, None]
    if curve.resampled is not None:
        bounds = np.quantile(curve.resampled.error(sizes), INTERVAL, axis=0)
    fitted = [curve.law.error(sizes)[0], *bounds]
    if best_is(figure.metric) == "max":
        fitted = [None if each is None else 1 - each for each in fitted]
    middle, low, high = (None if each is None else each.tolist() for each in fitted)
    return {"line": figure.lines.index(curve.line), "x": sizes.tolist(), "y": middle, "low": low, "high": high}
