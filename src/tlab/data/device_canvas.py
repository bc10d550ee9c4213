"""A canvas that leaves its pixels to another device: what is to be done to an image, as plain data."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from tlab.data.canvas import Canvas, raws
from tlab.data.resampling import Color, from_centres, reduction
from tlab.data.steps import generator

LARGE = 2  # times the sides of what comes out; a source that is larger when it is warped is warped here

STEEP = 32  # times the sides of what it is resized to; torch's CUDA kernel has no room for many more at once

Box = tuple[int, int, int, int, Color]  # top, left, bottom, right

_AS_IT_IS = np.eye(3)


class Drawing(NamedTuple):
    """An image and what is still to be done to it, in this order.

    Attributes:
        pixels: H W 3, uint8, RGB; or the content of a JPEG file, where `cut` is given.
        reduced: height and width to which they are resized, with antialiasing.
        matrix: 2 x 3, from output to resized image, in pixels from the centre of the first one.
        fill: colour outside the image; None: the border pixels are continued.
        tint: 3 x 7, from (R, G, B, 1, mean R, mean G, mean B) of the warped image to (R, G, B); None: no change.
        noise: mean and standard deviation in grey levels, and the seed; None for none.
        boxes: edges in pixels, and the colour that each is painted in.
        cut: top, left, height and width of what is used of the JPEG file's image; None for pixels.
    """

    pixels: np.ndarray
    reduced: tuple[int, int]
    matrix: np.ndarray
    fill: Color | None = None
    tint: np.ndarray | None = None
    noise: tuple[float, float, int] | None = None
    boxes: tuple[Box, ...] = ()
    cut: tuple[int, int, int, int] | None = None

    @classmethod
    def finished(cls, x_HWC: np.ndarray) -> "Drawing":
        """Return an image to which nothing is to be done."""
        return cls(x_HWC, (x_HWC.shape[0], x_HWC.shape[1]), _AS_IT_IS[:2])


class DeviceCanvas(Canvas):
    """Notes one warp, then one change of colours, then noise, then boxes, and carries none of them out itself.

    A step that comes in another order finds what came before carried out here, as on any canvas. The steps draw the
    same random numbers as on a `Canvas`: same boxes, flips, angles and colours. Noise alone is another.
    """

    def __init__(self, x_HWC: np.ndarray) -> None:
        super().__init__(x_HWC)
        self._tint: np.ndarray | None = None
        self._noise: tuple[float, float, int] | None = None
        self._boxes: tuple[Box, ...] = ()

    def crop(self, top: int, left: int, height: int, width: int, size: tuple[int, int] | None = None) -> None:
        """As on any canvas."""
        self._settle()
        super().crop(top, left, height, width, size)

    def flip(self, horizontal: bool = False, vertical: bool = False) -> None:
        """As on any canvas."""
        self._settle()
        super().flip(horizontal, vertical)

    def warp(self, matrix: np.ndarray, fill: Color) -> None:
        """As on any canvas."""
        self._settle()
        super().warp(matrix, fill)

    def recolor(self, matrix: np.ndarray) -> None:
        """As on any canvas."""
        self._change(matrix, np.zeros((3, 3)))

    def recolor_by_gray(self, build: Callable[[float], np.ndarray], weights: np.ndarray) -> None:
        """As on any canvas; the mean is taken where the pixels are made."""
        black = build(0.0)
        self._change(black, np.outer((build(1.0) - black)[:, 3], weights))

    def add_noise(self, mean: float, sigma: float, random: np.random.Generator) -> None:
        """As on any canvas, but of other random numbers; `random` goes on as far as there."""
        if self._noise or self._boxes:
            self._carry_out()
        bits = random.bit_generator
        self._noise = mean, sigma, int(bits.random_raw())
        bits.random_raw(raws(3 * self.size[0] * self.size[1]) - 1, output=False)

    def paint(self, top: int, left: int, height: int, width: int, color: Color) -> None:
        """As on any canvas."""
        self._boxes = (*self._boxes, (top, left, top + height, left + width, color))

    def mean(self) -> np.ndarray:
        """As on any canvas; carries everything out."""
        self._carry_out()
        return super().mean()

    def replace(self, x_HWC: np.ndarray) -> None:
        """As on any canvas."""
        self._forget()
        super().replace(x_HWC)

    def drawing(self) -> Drawing:
        """Return the image and what is pending."""
        matrix = _AS_IT_IS if self._matrix is None else self._matrix
        reduced = self.size if self._upright(matrix) else reduction(self._source.shape[:2], matrix)
        source = self._source.shape[:2]
        large = any(side > LARGE * out for side, out in zip(reduced, self.size, strict=True))
        if large or any(side > STEEP * out for side, out in zip(source, reduced, strict=True)):
            self._carry_out()
            return Drawing.finished(self._source)
        matrix = from_centres(np.diag([reduced[1] / source[1], reduced[0] / source[0], 1.0]) @ matrix)
        return Drawing(self._source, reduced, matrix, self._fill, self._tint, self._noise, self._boxes)

    def _change(self, matrix: np.ndarray, by_mean: np.ndarray) -> None:
        """Note x -> matrix (x, 1) + by_mean m, where m is the mean colour of the image as it is then."""
        if self._noise or self._boxes:
            self._carry_out()
        linear, offset, of_mean = np.split(self._tint if self._tint is not None else np.eye(3, 7), [3, 4], axis=1)
        self._tint = np.hstack(
            [
                matrix[:, :3] @ linear,
                matrix[:, :3] @ offset + matrix[:, 3:] + by_mean @ offset,
                matrix[:, :3] @ of_mean + by_mean @ (linear + of_mean),
            ]
        )

    def _settle(self) -> None:
        """Carry out what must not come after a warp."""
        if self._tint is not None or self._noise or self._boxes:
            self._carry_out()

    def _carry_out(self) -> None:
        tint, noise, boxes = self._tint, self._noise, self._boxes
        self._forget()
        self._carry_out_warp()
        if tint is not None:
            mean = np.array(cv2.mean(self._source)[:3])
            matrix = tint[:, :4].copy()
            matrix[:, 3] += tint[:, 4:] @ mean
            super().recolor(matrix)
            super()._carry_out()
        if noise is not None:
            super().add_noise(*noise[:2], generator(noise[2]))
        for top, left, bottom, right, color in boxes:
            super().paint(top, left, bottom - top, right - left, color)

    def _forget(self) -> None:
        self._tint, self._noise, self._boxes = None, None, ()


class EncodedCanvas(DeviceCanvas):
    """A JPEG file, whose decoding is left to the device too, unless a step needs the pixels here.

    Args:
        content: of the file.
        size: height and width in pixels.
        decode: gives the pixels, H W 3, uint8.
    """

    def __init__(self, content: bytes, size: tuple[int, int], decode: Callable[[], np.ndarray]) -> None:
        super().__init__(np.broadcast_to(np.uint8(0), (*size, 3)))  # stands for the pixels; takes no memory
        self._content: bytes | None = content
        self._decode = decode
        self._corner = (0, 0)  # of what is used

    def crop(self, top: int, left: int, height: int, width: int, size: tuple[int, int] | None = None) -> None:
        """As on any canvas."""
        self._settle()
        if self._matrix is None:
            self._corner = self._corner[0] + top, self._corner[1] + left
        super().crop(top, left, height, width, size)

    def drawing(self) -> Drawing:
        """Return the file and what is pending."""
        drawing = super().drawing()
        if self._content is None:
            return drawing
        content = np.frombuffer(self._content, np.uint8)
        return drawing._replace(pixels=content, cut=(*self._corner, *self._source.shape[:2]))

    def _carry_out_warp(self) -> None:
        if self._content is not None:
            (top, left), (height, width) = self._corner, self._source.shape[:2]
            self._source, self._content = self._decode()[top : top + height, left : left + width], None
        super()._carry_out_warp()
