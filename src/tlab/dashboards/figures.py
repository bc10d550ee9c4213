"""The figures of the dashboards, as functions of plain values; matplotlib is imported when one is drawn."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tlab.models.calibration.reliability import BINS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
TITLE_SIZE, HEADER_SIZE, CAPTION_SIZE = 15, 12, 10  # height of the letters of tiles' figures, in pixels
TITLE_SPACE, HEADER_SPACE, CAPTION_LINE = 40, 20, 12  # room for a line, in pixels
GAP = 10  # between tiles, in pixels
CELL_TEXT_CLASSES = 30  # above, a cell is too small for its count
NAMED_CLASSES = 100  # above, names would overlap


def shorten(name: str, limit: int) -> str:
    """Return `name`, cut in the middle when it is longer than `limit` characters: both its ends may tell.

    What cannot be drawn, such as the end of a line, is a question mark.
    """
    name = "".join(each if each.isprintable() else "?" for each in name)
    if len(name) <= limit:
        return name
    head = limit // 2
    return f"{name[:head]}…{name[len(name) - (limit - 1 - head) :]}"


def caption_characters(tile_inches: float) -> int:
    """Return how many characters of a caption fit above a tile."""
    return int(tile_inches * 15)


def tile_figure(
    images: Sequence[Tensor],
    captions: Sequence[str],
    title: str,
    columns: int,
    headers: Sequence[str] = (),
    tile_inches: float = 1.25,
) -> np.ndarray:
    """Draw images in a grid, row by row, each below its caption.

    Drawn with Pillow in the font of the other figures: matplotlib takes several times as long.

    Args:
        images: Images `3 S S` (uint8, RGB), all of one size.
        captions: Caption of each image; may have several lines.
        title: Heading of the figure.
        columns: Images in a row.
        headers: Heading of each column.
        tile_inches: Width of a tile in inches of 100 pixels.

    Returns:
        The figure `H W 3` (uint8, RGB).
    """
    side = round(tile_inches * DPI)
    columns = min(columns, len(images))
    lines = max(caption.count("\n") + 1 if caption else 0 for caption in captions)
    step_x, step_y = side + GAP, side + GAP + CAPTION_LINE * lines
    width = max(columns * step_x, 4 * DPI)  # the title needs some room
    left, head = (width - columns * step_x) // 2, TITLE_SPACE + (HEADER_SPACE if headers else 0)
    page = Image.new("RGB", (width, head + -(-len(images) // columns) * step_y), "white")
    draw = ImageDraw.Draw(page)
    draw.text((width / 2, TITLE_SPACE / 2), title, "black", _font(TITLE_SIZE), anchor="mm")
    for column, header in enumerate(headers):
        middle = left + step_x * (column + 0.5), TITLE_SPACE + HEADER_SPACE / 2
        draw.text(middle, header, "black", _font(HEADER_SIZE), anchor="mm")
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = left + (i % columns) * step_x + GAP // 2, head + (i // columns + 1) * step_y - side
        # By area: smooth where it shrinks, the pixels stay visible where it grows
        tile = cv2.resize(image.permute(1, 2, 0).cpu().numpy(), (side, side), interpolation=cv2.INTER_AREA)
        page.paste(Image.fromarray(tile), (x, y))
        for line, text in enumerate(reversed(caption.split("\n"))):
            place = x + side / 2, y - 4 - CAPTION_LINE * line
            draw.text(place, text, "black", _font(CAPTION_SIZE), anchor="ms")
    return np.asarray(page)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def confusion_figure(counts_KK: Tensor, classes: Sequence[str], title: str) -> "Figure":
    """Draw a confusion matrix: color is the share of the true class (row), text the number of images.

    Above 30 classes the cells carry no text, and the color scale lifts small shares so that single confusions
    can be seen; above 100 the axes carry no names.

    Args:
        counts_KK: Number of images `K K` (integer) by true class (row) and predicted class (column).
        classes: Names of the K classes.
        title: Heading; the accuracy is added.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    counts, number = counts_KK.cpu().numpy(), len(classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(2.5, 0.42 * min(number, 10) + 0.3 * max(0, min(number, 30) - 10))
    points = 9.0 if number <= 20 else 7.0 if number <= 45 else 5.0 if number <= 65 else 4.0
    names = [shorten(name, 20) for name in classes] if number <= NAMED_CLASSES else []
    longest = max(map(len, names), default=0) * 0.6 * points / 72 or 0.3
    flat = longest < 0.9 * side / number
    # In inches, laid out by hand: matplotlib's own layout cuts the title of a square picture off
    left, bottom, top, right = 0.5 + longest, 0.7 if flat else 0.5 + longest, 0.6, 1.0
    width, height = left + side + right, bottom + side + top
    figure = Figure(figsize=(width, height), dpi=DPI if number <= 60 else 1.3 * DPI)
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    lifted = PowerNorm(0.5 if number > CELL_TEXT_CLASSES else 1.0, vmin=0, vmax=1)
    image = axes.imshow(shares, cmap="Blues", norm=lifted, interpolation="nearest", aspect="auto")
    correct, total = int(counts.trace()), int(counts.sum())
    right_text = f"{correct} of {total} right" + (f" ({correct / total:.1%})" if total else "")
    axes.set_title(f"{title}\n{right_text}", fontsize=11)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.tick_params(length=2)
    if names:
        axes.set_xticks(range(number), names, rotation=0 if flat else 90, fontsize=points, parse_math=False)
        axes.set_yticks(range(number), names, fontsize=points, parse_math=False)
    if number <= CELL_TEXT_CLASSES:
        _write_counts(axes, counts, shares)
    bar = figure.add_axes(((left + side + 0.12) / width, bottom / height, 0.15 / width, side / height))
    figure.colorbar(image, cax=bar).set_label("share of the true class")
    return figure


def _write_counts(axes: "Axes", counts: np.ndarray, shares: np.ndarray) -> None:
    points = 9 if counts.max(initial=0) < 1000 else 7 if counts.max() < 10_000 else 5
    for row, column in zip(*np.nonzero(counts), strict=True):
        color = "white" if shares[row, column] > 0.5 else "black"
        text = str(counts[row, column])
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=points)


def reliability_figure(series: Mapping[str, np.ndarray], title: str) -> "Figure":
    """Draw accuracy by confidence as lines, and the share of the images by confidence as bars.

    Args:
        series: Name -> images, sum of confidence and correct ones of each bin, `3 16`, see
            `models.calibration.reliability`.
        title: Heading.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 4.4), dpi=DPI)
    axes = figure.add_axes((0.13, 0.12, 0.83, 0.8))
    axes.plot((0, 1), (0, 1), color="0.6", linestyle="--", linewidth=1)
    width = 0.8 / BINS / len(series)  # of a bar; 260 points are 1
    for number, (name, sums) in enumerate(series.items()):
        last = sums[:, BINS - 1 :].sum(axis=1, keepdims=True)  # with confidence 1 itself
        images, confidence, correct = np.hstack([sums[:, : BINS - 1], last])
        some, color = images > 0, f"C{number}"
        axes.plot(
            confidence[some] / images[some], correct[some] / images[some], color, marker="o", ms=4, label=name
        )
        left = (np.arange(BINS) + 0.1) / BINS + number * width
        axes.vlines(left + width / 2, 0, images / images.sum(), colors=color, alpha=0.35, linewidth=260 * width)
    axes.set_title(title, fontsize=11)
    axes.legend(fontsize=9, loc="upper left")
    ticks = np.linspace(0, 1, 6)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xticks=ticks, yticks=ticks)
    axes.set(xlabel="confidence", ylabel="accuracy (lines), share of images (bars)")
    return figure
