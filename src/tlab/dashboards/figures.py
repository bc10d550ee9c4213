"""The figures of the dashboards, drawn with Pillow from plain values."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tlab.dashboards.fonts import line
from tlab.models.calibration.reliability import BINS

DPI = 100
TITLE_SIZE, HEADER_SIZE, CAPTION_SIZE = 15, 12, 10  # height of the letters of tiles' figures, in pixels
TITLE_SPACE, HEADER_SPACE, CAPTION_LINE = 40, 20, 12  # room for a line, in pixels
GAP = 10  # between tiles, in pixels
CELL_TEXT_CLASSES = 30  # above, a cell is too small for its count
NAMED_CLASSES = 100  # above, names would overlap
MATRIX_SIDE = 250  # least width of a confusion matrix, in pixels
# Classes up to which a cell has so many pixels, and the letters of its name
CELLS = (
    (10, 42, 12),
    (20, 36, 12),
    (30, 30, 10),
    (45, 20, 10),
    (65, 14, 9),
    (100, 11, 8),
    (200, 5, 8),
    (math.inf, 2, 8),
)
SQUARE_SIDE = 340  # of a diagram, in pixels
AXIS_SPACE, BAR_SPACE = 36, 100  # room for an axis' label, and for the colors' legend, in pixels
LINES, PALE = ("#1f77b4", "#ff7f0e"), ("#b5d2e7", "#ffd5ad")  # colors of a diagram's lines and bars
BLUES = (
    *((247, 251, 255), (222, 235, 247), (198, 219, 239), (158, 202, 225), (107, 174, 214)),
    *((66, 146, 198), (33, 113, 181), (8, 81, 156), (8, 48, 107)),
)


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
        for number, text in enumerate(reversed(caption.split("\n"))):
            shown, font = line(text, CAPTION_SIZE)
            draw.text((x + side / 2, y - 4 - CAPTION_LINE * number), shown, "black", font, anchor="ms")
    return np.asarray(page)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return line("", size)[1]


def confusion_figure(counts_KK: Tensor, classes: Sequence[str], title: str) -> np.ndarray:
    """Draw a confusion matrix: color is the share of the true class (row), text the number of images.

    Above 30 classes the cells carry no text, and the color is that of the share's root, so that single confusions
    can be seen; above 100 the axes carry no names. Drawn with Pillow, as the tiles are.

    Args:
        counts_KK: Number of images `K K` (integer) by true class (row) and predicted class (column).
        classes: Names of the K classes.
        title: Heading; the accuracy is added.

    Returns:
        The figure `H W 3` (uint8, RGB).
    """
    counts, number = counts_KK.cpu().numpy(), len(classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    least_cell, size = next((cell, size) for most, cell, size in CELLS if number <= most)
    cell = max(least_cell, -(-MATRIX_SIDE // number))
    side = cell * number
    names = [line(shorten(name, 20), size) for name in classes] if number <= NAMED_CLASSES else []
    longest = round(max((font.getlength(name) for name, font in names), default=0))
    flat = longest < 0.9 * cell  # else the names of the columns stand upright
    left, below = AXIS_SPACE + longest, (size if flat else longest) + AXIS_SPACE
    head, right = 2 * TITLE_SPACE, left + side
    correct, total = int(counts.trace()), int(counts.sum())
    told = f"{correct} of {total} right" + (f" ({correct / total:.1%})" if total else "")
    width = max(right + BAR_SPACE, *(round(_font(TITLE_SIZE).getlength(text)) + 2 * GAP for text in (title, told)))
    page = Image.new("RGB", (width, head + side + below), "white")
    draw = ImageDraw.Draw(page)
    for place, text in enumerate((title, told)):
        middle = min(max(left + side / 2, _font(TITLE_SIZE).getlength(text) / 2 + GAP), width / 2)
        draw.text((middle, TITLE_SPACE * (0.6 + 0.7 * place)), text, "black", _font(TITLE_SIZE), anchor="mm")

    root = 0.5 if number > CELL_TEXT_CLASSES else 1.0
    squares = Image.fromarray(_blues(shares**root)).resize((side, side), Image.Resampling.NEAREST)
    page.paste(squares, (left, head))
    bar = right + 2 * GAP
    page.paste(Image.fromarray(_blues((np.linspace(1, 0, side) ** root)[:, None].repeat(GAP, axis=1))), (bar, head))
    for x, wide in ((left, side), (bar, GAP)):
        draw.rectangle((x - 1, head - 1, x + wide, head + side), outline="black")

    for i, (name, font) in enumerate(names):
        middle = cell * i + cell / 2
        draw.text((left - 4, head + middle), name, "black", font, anchor="rm")
        if flat:
            draw.text((left + middle, head + side + 3), name, "black", font, anchor="ma")
        else:
            _draw_upright(page, (left + middle, head + side + 4), name, font, anchor="top")
    if number <= CELL_TEXT_CLASSES:
        _write_counts(draw, counts, shares, left, head, cell)
    for share in (0.0, 0.5, 1.0):
        draw.text(
            (bar + GAP + 4, head + (1 - share) * side), f"{share:g}", "black", _font(CAPTION_SIZE), anchor="lm"
        )
    labels, middle = _font(HEADER_SIZE), head + side / 2
    draw.text((left + side / 2, page.height - 4), "predicted class", "black", labels, anchor="ms")
    _draw_upright(page, (HEADER_SIZE, middle), "true class", labels)
    _draw_upright(page, (right + BAR_SPACE - HEADER_SIZE, middle), "share of the true class", labels)
    return np.asarray(page)


def _blues(shares: np.ndarray) -> np.ndarray:
    """Return the color (`... 3`, uint8) of shares in 0..1: ColorBrewer's scheme "Blues" of nine colors."""
    positions = np.linspace(0, 1, len(BLUES))
    channels = [np.interp(shares, positions, [color[channel] for color in BLUES]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _draw_upright(
    page: Image.Image,
    place: tuple[float, float],
    text: str,
    font: ImageFont.FreeTypeFont,
    anchor: Literal["middle", "top"] = "middle",
) -> None:
    """Draw text that is read from below to above, with the middle of its line, or of its upper end, at `place`."""
    wide, high = round(font.getlength(text)) + 2, round(font.size * 1.5)
    flat = Image.new("L", (wide, high))
    ImageDraw.Draw(flat).text((wide / 2, high / 2), text, 255, font, anchor="mm")
    upright = flat.transpose(Image.Transpose.ROTATE_90)
    x, y = place
    corner = round(x - upright.width / 2), round(y - (upright.height / 2 if anchor == "middle" else 0))
    page.paste("black", corner, upright)


def _write_counts(
    draw: ImageDraw.ImageDraw, counts: np.ndarray, shares: np.ndarray, left: int, head: int, cell: int
) -> None:
    """Write the counts that are not 0 into cells of so many pixels, from the corner of the matrix on."""
    sizes = (size for size in range(HEADER_SIZE, 5, -1) if _font(size).getlength(str(counts.max())) < cell)
    font = _font(next(sizes, 6))
    for row, column in zip(*np.nonzero(counts), strict=True):
        color = "white" if shares[row, column] > 0.5 else "black"
        place = left + cell * (column + 0.5), head + cell * (row + 0.5)
        draw.text(place, str(counts[row, column]), color, font, anchor="mm")


def reliability_figure(series: Mapping[str, np.ndarray], title: str) -> np.ndarray:
    """Draw accuracy by confidence as lines, and the share of the images by confidence as bars.

    Args:
        series: Name -> images, sum of confidence and correct ones of each bin, `3 16`, see
            `models.calibration.reliability`; at most two.
        title: Heading.

    Returns:
        The figure `H W 3` (uint8, RGB).
    """
    side, left, head = SQUARE_SIDE, AXIS_SPACE + HEADER_SPACE, TITLE_SPACE
    page = Image.new("RGB", (left + side + HEADER_SPACE, head + side + AXIS_SPACE + HEADER_SPACE), "white")
    draw = ImageDraw.Draw(page)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x * side, head + (1 - y) * side

    draw.text((page.width / 2, TITLE_SPACE / 2), title, "black", _font(HEADER_SIZE + 1), anchor="mm")
    wide = 0.8 / BINS / len(series)
    found = []
    for number, sums in enumerate(series.values()):
        last = sums[:, BINS - 1 :].sum(axis=1, keepdims=True)  # with confidence 1 itself
        images, confidence, correct = np.hstack([sums[:, : BINS - 1], last])
        found.append((images > 0, confidence, correct, images))
        for each, share in enumerate(images / images.sum()):
            x = (each + 0.1) / BINS + number * wide
            if share > 0:
                draw.rectangle((place(x, share), place(x + wide, 0)), PALE[number])
    draw.line((place(0, 0), place(1, 1)), "#999999")
    for number, (some, confidence, correct, images) in enumerate(found):
        means = confidence[some] / images[some], correct[some] / images[some]
        points = [place(x, y) for x, y in zip(*means, strict=True)]
        draw.line(points, LINES[number], width=2)
        for x, y in points:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), LINES[number])
    draw.rectangle((place(0, 1), place(1, 0)), outline="black")
    for tick in np.linspace(0, 1, 6):
        (x, low), (start, y) = place(tick, 0), place(0, tick)
        draw.text((x, low + 4), f"{tick:.1f}", "black", _font(CAPTION_SIZE), anchor="ma")
        draw.text((start - 4, y), f"{tick:.1f}", "black", _font(CAPTION_SIZE), anchor="rm")
    for number, name in enumerate(series):
        y = head + HEADER_SPACE * (number + 0.7)
        draw.line((left + 8, y, left + 28, y), LINES[number], width=3)
        draw.text((left + 34, y), name, "black", _font(HEADER_SIZE), anchor="lm")
    draw.text((left + side / 2, page.height - 6), "confidence", "black", _font(HEADER_SIZE), anchor="ms")
    label = "accuracy (lines), share of images (bars)"
    _draw_upright(page, (HEADER_SIZE, head + side / 2), label, _font(HEADER_SIZE))
    return np.asarray(page)
