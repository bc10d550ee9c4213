"""Drawing of polygons in an object's own coordinates, and a palette of colors."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]
Color = tuple[int, ...]  # RGB


class Palette(NamedTuple):
    """The colors of one object, RGB 0..255."""

    main: Color
    second: Color
    dark: Color
    light: Color


class Pen:
    """Draws in object coordinates on a transparent RGBA image, through one affine map.

    Args:
        side: Width and height of the image, in pixels.
        matrix: Affine map 2 x 3 from object coordinates to pixels.
    """

    def __init__(self, side: int, matrix: np.ndarray):
        self.image = Image.new("RGBA", (side, side))
        self._draw = ImageDraw.Draw(self.image)
        self._matrix = matrix
        self._scale = math.sqrt(abs(np.linalg.det(matrix[:, :2])))

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """Fill a polygon."""
        self._draw.polygon(self._pixels(points), fill=color)

    def box(self, left: float, top: float, right: float, bottom: float, color: Color) -> None:
        """Fill a rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], color)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Color) -> None:
        """Fill an ellipse."""
        self.polygon(arc(x, y, rx, ry), color)

    def line(self, points: Sequence[Point], width: float, color: Color) -> None:
        """Draw a line with round joints and ends; `width` in object coordinates."""
        pixels, width = self._pixels(points), width * self._scale
        self._draw.line(pixels, fill=color, width=max(1, round(width)), joint="curve")
        for x, y in (pixels[0], pixels[-1]):
            r = width / 2
            self._draw.ellipse((x - r, y - r, x + r, y + r), fill=color)

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        mapped = np.asarray(points) @ self._matrix[:, :2].T + self._matrix[:, 2]
        return [(float(x), float(y)) for x, y in mapped]


def arc(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360) -> list[Point]:
    """Return points of an elliptic arc; angles in degrees, 0 to the right, 90 down."""
    angles = np.radians(np.linspace(start, stop, 40))
    return [(x + rx * float(np.cos(a)), y + ry * float(np.sin(a))) for a in angles]
