"""An image with pending transforms: successive warps become one, and so do successive color changes."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

Color = tuple[float, float, float]  # RGB in 0..255

_SAME = 1e-6
_WARP_LIMIT = 32_000  # cv2.warpAffine takes sources of less than 2 ** 15 pixels a side


class LazyImage:
    """An image whose transforms are applied when its pixels are needed.

    `crop`, `flip`, `warp` and `recolor` only record what is to be done: one resampling for all warps, then one pass
    for all color changes. The result is that of applying each at once, with less blur, and without clipping at 0
    and 255 between color changes.

    Coordinates are continuous: pixel (row i, column j) covers [j, j + 1) x [i, i + 1). Warps are given as matrices
    from output to input coordinates (x, y, 1).

    Args:
        x_HWC: Image H W 3, uint8, RGB; never written to.

    Attributes:
        size: Height and width in pixels.
    """

    def __init__(self, x_HWC: np.ndarray) -> None:
        self._color: np.ndarray | None = None  # RGB1 -> RGB, 3 x 4
        self._set(x_HWC)

    def _set(self, x_HWC: np.ndarray) -> None:
        height, width = x_HWC.shape[:2]
        self._source, self.size = x_HWC, (height, width)
        self._matrix: np.ndarray | None = None  # output -> source, 3 x 3; None: nothing to warp
        self._fill: Color | None = None  # color outside the source, where a warp may show it
        self._cut = False  # the matrix hides pixels of the source, which another warp must not reveal

    def crop(self, top: int, left: int, height: int, width: int, size: tuple[int, int] | None = None) -> None:
        """Cut a box that lies inside the image (pixels), and resize it to `size` (height, width)."""
        if self._matrix is None:
            self._source = self._source[top : top + height, left : left + width]
        else:
            self._matrix = self._matrix @ np.array([[1.0, 0, left], [0, 1, top], [0, 0, 1]])
            self._cut = True
        self.size = height, width
        if size is not None and size != self.size:
            self._compose(np.diag([width / size[1], height / size[0], 1.0]))
            self.size = size

    def flip(self, horizontal: bool = False, vertical: bool = False) -> None:
        """Swap left and right, or top and bottom."""
        height, width = self.size
        x = (-1.0, width) if horizontal else (1.0, 0)
        y = (-1.0, height) if vertical else (1.0, 0)
        self._compose(np.array([[x[0], 0, x[1]], [0, y[0], y[1]], [0, 0, 1]]))

    def warp(self, matrix: np.ndarray, fill: Color) -> None:
        """Resample by a 3 x 3 affine matrix, from output to input coordinates; `fill` shows outside the image."""
        if self._cut or self._color is not None or self._fill not in (None, fill):
            self._set(self.pixels())
        self._compose(matrix)
        self._fill = fill

    def pad(self, margin: Sequence[int], fill: Color, border: int) -> None:
        """Add a margin (left, top, right, bottom) in pixels, of the kind of a cv2.BORDER_* constant."""
        left, top, right, bottom = margin
        self._set(cv2.copyMakeBorder(self.pixels(), top, bottom, left, right, border, value=fill))

    def recolor(self, matrix: np.ndarray) -> None:
        """Change colors by a 3 x 4 matrix, from (R, G, B, 1) to (R, G, B), in 0..255."""
        if self._color is not None:
            matrix, added = matrix[:, :3] @ self._color, matrix[:, 3]
            matrix[:, 3] += added
        self._color = matrix

    def mean(self) -> np.ndarray:
        """Return the mean color, RGB in 0..255: 3, float64, with pending color changes, unclipped."""
        self._flush_warp()
        mean = np.array(cv2.mean(self._source)[:3])
        return mean if self._color is None else self._color[:, :3] @ mean + self._color[:, 3]

    def pixels(self) -> np.ndarray:
        """Apply what is pending, and return the image: H W 3, uint8; not to be written to."""
        self._flush_warp()
        if self._color is not None:
            self._source, self._color = cv2.transform(self._source, self._color), None
        return self._source

    def tensor(self) -> Tensor:
        """Return `pixels` as a tensor: 3 H W, uint8; not to be written to."""
        return torch.from_numpy(np.require(self.pixels(), requirements=["C", "W"])).permute(2, 0, 1)

    def replace(self, x_HWC: np.ndarray) -> None:
        """Replace the image by another, H W 3, uint8, and drop what was pending."""
        self._color = None
        self._set(x_HWC)

    def _compose(self, matrix: np.ndarray) -> None:
        self._matrix = matrix if self._matrix is None else self._matrix @ matrix

    def _flush_warp(self) -> None:
        if self._matrix is None:
            return
        (height, width), (a, b, x), (c, d, y) = self._source.shape[:2], *self._matrix[:2]
        edges = (min(x, x + a * self.size[1]), min(y, y + d * self.size[0]))
        extents = (abs(a) * self.size[1] - width, abs(d) * self.size[0] - height)
        if max(map(abs, (b, c, *edges, *extents))) < _SAME:  # the whole source, upright
            self._set(_flipped(resized(self._source, self.size), a < 0, d < 0))
        else:
            self._set(_warped(self._source, self._matrix, self.size, self._fill))


def resized(x_HWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (height, width) as torchvision does: bilinear, with antialiasing where a side shrinks.

    torch's kernel for uint8 is faster than OpenCV's INTER_AREA.
    """
    if x_HWC.shape[:2] == size:
        return x_HWC
    x_1CHW = torch.from_numpy(np.require(x_HWC, requirements="W")).permute(2, 0, 1)[None]
    return interpolate(x_1CHW, size=size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()


def _flipped(x_HWC: np.ndarray, horizontal: bool, vertical: bool) -> np.ndarray:
    """Swap left and right, or top and bottom, or both."""
    if not (horizontal or vertical):
        return x_HWC
    return cv2.flip(np.ascontiguousarray(x_HWC), 1 if not vertical else -1 if horizontal else 0)


def _warped(x_HWC: np.ndarray, matrix: np.ndarray, size: tuple[int, int], fill: Color | None) -> np.ndarray:
    """Resample by a 3 x 3 matrix from output to input (bilinear); what shrinks is first resized with antialiasing.

    `fill` shows outside the image; None repeats the border pixels.
    """
    height, width = x_HWC.shape[:2]
    # Input pixels from one output pixel to the next, along the width and the height of the input
    shrink = [max(1.0, math.hypot(row[0], row[1])) for row in matrix[:2]]
    reduced = [min(_WARP_LIMIT, max(1, round(side / by))) for side, by in zip((width, height), shrink, strict=True)]
    x_HWC = resized(x_HWC, (reduced[1], reduced[0]))
    matrix = (np.diag([reduced[0] / width, reduced[1] / height, 1.0]) @ matrix)[:2]
    matrix[:, 2] += 0.5 * (matrix[:, 0] + matrix[:, 1]) - 0.5  # cv2 counts from the center of the first pixel
    return cv2.warpAffine(
        x_HWC,
        matrix,
        (size[1], size[0]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE if fill is None else cv2.BORDER_CONSTANT,
        borderValue=fill or (0, 0, 0),
    )
