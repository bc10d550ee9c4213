"""The figure of a study as a file for a paper."""

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from tlab.comparison.phrases import is_share
from tlab.core.files import atomic_path
from tlab.studies.findings import LearningCurve
from tlab.studies.points import Figure, Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT = "figure.svg"
# Okabe and Ito (2008, Color Universal Design): told apart with any color vision
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")
MARKS = "osD^vPX"
WORDS = {"acc": "accuracy", "f1": "macro F1"}  # of metrics
INCHES = (6.5, 4.2)  # as wide as the text of a page, so that nothing is scaled and letters keep their points


def write_plot(cfg: DictConfig, figure: Figure, curves: Sequence[LearningCurve], directory: Path) -> None:
    """Write the figure, with a caption below it, as `figure.svg` (text as outlines) and `figure.png` (300 dpi).

    Args:
        cfg: Configuration of tlab.study.
        figure: The figure.
        curves: Lines with a fitted law.
        directory: The study's directory.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as Plot

    style: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "tlab"}
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script that the font lacks
        plot = Plot(figsize=INCHES, layout="constrained")
        axes = plot.add_subplot()
        with_law = {figure.lines.index(curve.line) for curve in curves if curve.compatible is not None}
        for number in range(len(figure.lines)):
            _draw_line(axes, figure.lines[number], number, with_law)
        for curve in curves:
            _draw_law(axes, curve, figure)
        _label(axes, cfg, figure, {2 * curve.sizes[-1]: f"{2 * curve.sizes[-1]:,.0f}" for curve in curves[:1]})
        told = textwrap.fill(f"{cfg.title}. {caption(figure, curves)}", 108)
        plot.supxlabel(told, x=0.01, ha="left", fontsize=8, color="0.25", parse_math=False)
        for kind in ("svg", "png"):
            with atomic_path((directory / PLOT).with_suffix(f".{kind}")) as file:
                plot.savefig(file, format=kind, dpi=300, metadata={"Date": None} if kind == "svg" else None)


def caption(figure: Figure, curves: Sequence[LearningCurve]) -> str:
    """Return what points, bands and dashed lines are, in sentences."""
    counts = {len(point.values) for line in figure.lines for point in line.points}
    known = sum(curve.compatible is not None for curve in curves)
    if counts == {1}:
        told = "One seed, so no band and no interval."
    else:
        seeds = str(max(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
        told = f"Means of {seeds} seeds, each a small dot"
        told += "; bands from the lowest to the highest." if known < len(figure.lines) else "."
    if curves:
        told += " Thin and dashed: fitted power law, up to twice the largest number"
        told += "; its band is of the laws that the seeds do not rule out (95 %)." if known else "."
    return told


def _draw_line(axes: "Axes", line: Line, number: int, without_band: set[int]) -> None:
    color = COLORS[number % len(COLORS)]
    if not line.moves:
        (point,) = line.points
        axes.axhline(point.mean, color=color, linewidth=1.4, label=line.name)
        if len(point.values) > 1:
            axes.axhspan(point.low, point.high, color=color, alpha=0.14, linewidth=0)
        return
    at = [point.position for point in line.points]
    (curve,) = axes.plot(at, [point.mean for point in line.points], MARKS[number % len(MARKS)], label=line.name)
    curve.set(color=color, linestyle=DASHES[number % len(DASHES)], linewidth=1.6, markersize=5)
    if number not in without_band:
        lows, highs = ([getattr(point, end) for point in line.points] for end in ("low", "high"))
        axes.fill_between(at, lows, highs, color=color, alpha=0.14, linewidth=0)
    dots = [(point.position, each) for point in line.points for each in point.values.values()]
    axes.plot(*zip(*dots, strict=True), ".", color=color, alpha=0.6, markersize=3)


def _draw_law(axes: "Axes", curve: LearningCurve, figure: Figure) -> None:
    law, color = curve.drawn(figure.metric), COLORS[figure.lines.index(curve.line) % len(COLORS)]
    axes.plot(law["x"], law["y"], color=color, linestyle="--", linewidth=1, label=f"{curve.line.name}: power law")
    if law["low"] is not None:
        axes.fill_between(law["x"], law["low"], law["high"], color=color, alpha=0.14, linewidth=0)


def _label(axes: "Axes", cfg: DictConfig, figure: Figure, more: dict[float, str]) -> None:
    """Write what the axes are; `more` are places beside those of the points."""
    split, _, name = figure.metric.rpartition("/")
    ticks = {**figure.ticks, **more}
    if figure.is_log:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks([*ticks], [*ticks.values()])
    axes.set_xlabel(cfg.x_label, parse_math=False)
    unit = " (%)" if is_share(figure.metric) else ""
    axes.set_ylabel(f"{split} {WORDS.get(name, name)}{unit}".strip(), parse_math=False)
    if is_share(figure.metric):
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}")
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(fontsize=8, frameon=False)
