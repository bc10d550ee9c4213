"""The reliability diagram: accuracy against confidence, as a chart."""

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from tlab.core.text import counted

SIDE, LEFT, ROOM = 320, 44, 8  # of the square in user units; left of and below it; around it


def reliability_chart(curves: Sequence[tuple[str, NDArray[np.float64]]]) -> str:
    """Return an SVG in which each bin is a dot, its area in proportion to the number of images, joined by lines.

    Args:
        curves: Name, and what `calibration.reliability` returns: `3 16`.
    """
    ticks = "".join(
        f"<path d='M{LEFT + SIDE * at:.1f} {ROOM}v{SIDE}M{LEFT} {ROOM + SIDE - SIDE * at:.1f}h{SIDE}'/>"
        f"<text x='{LEFT + SIDE * at:.1f}' y='{ROOM + SIDE + 16}' text-anchor='middle'>{100 * at:.0f} %</text>"
        f"<text x='{LEFT - 6}' y='{ROOM + SIDE - SIDE * at + 4:.1f}' text-anchor='end'>{100 * at:.0f} %</text>"
        for at in (0, 0.25, 0.5, 0.75, 1)
    )
    drawn = "".join(_curve(number, name, sums) for number, (name, sums) in enumerate(curves))
    return (
        f"<svg class='reliability' viewBox='0 0 {LEFT + SIDE + 2 * ROOM + 8} {ROOM + SIDE + LEFT}' role='img' "
        f"aria-label='Accuracy against confidence'>{ticks}"
        f"<path class='square' d='M{LEFT} {ROOM + SIDE}L{LEFT + SIDE} {ROOM}'/>{drawn}"
        f"<text x='{LEFT + SIDE}' y='{ROOM + SIDE + 34}' text-anchor='end'>confidence →</text>"
        f"<text x='{LEFT + 6}' y='{ROOM + 14}'>↑ accuracy</text></svg>"
    )


def _curve(number: int, name: str, sums: NDArray[np.float64]) -> str:
    images, confidence, correct = sums[:, sums[0] > 0]
    x, y = LEFT + SIDE * confidence / images, ROOM + SIDE - SIDE * correct / images
    line = "L".join(f"{each:.1f} {other:.1f}" for each, other in zip(x, y, strict=True))
    dots = "".join(
        f"<circle cx='{each:.1f}' cy='{other:.1f}' r='{max(2.0, 12 * np.sqrt(count / images.sum())):.1f}'>"
        f"<title>{escape(name)}: {counted(int(count), 'image')}, confidence {100 * told / count:.1f} %, "
        f"accuracy {100 * right / count:.1f} %</title></circle>"
        for each, other, count, told, right in zip(x, y, images, confidence, correct, strict=True)
    )
    return f"<g class='curve{number}'><path d='M{line}'/>{dots}</g>"
