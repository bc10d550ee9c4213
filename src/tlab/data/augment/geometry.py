"""Geometric transforms: crop, flip, rotation and shear, with torchvision's names and meanings.

Successive ones are applied as one warp (see `lazy_image.LazyImage`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from tlab.data.augment.base import Range, Transform, below, check_probability, color, limits, sides, uniform
from tlab.data.augment.lazy_image import LazyImage

BORDERS = {
    "constant": cv2.BORDER_CONSTANT,
    "edge": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT_101,
    "symmetric": cv2.BORDER_REFLECT,
}


@dataclass
class RandomResizedCrop(Transform):
    """Cut a box of random size, shape and place, and resize it (bilinear, with antialiasing).

    Args:
        size: Side S of the square output in pixels, or its height and width.
        scale: Range of the box's share of the image's area.
        ratio: Range of width / height, drawn log-uniformly.
    """

    size: int | Sequence[int]
    scale: Sequence[float] = (0.08, 1.0)
    ratio: Sequence[float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be a range of shares above 0, not {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be a range above 0, not {self.ratio}")

    def apply(self, image: LazyImage, rng: np.random.Generator) -> None:
        """Cut a box and resize it; an image too thin for any such box gives its middle."""
        image.crop(*self._box(*image.size, rng), size=_pair(self.size))

    def _box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        for w, h in sides(rng, height * width, self.scale, self.ratio):
            if 0 < w <= width and 0 < h <= height:
                return below(rng, height - h + 1), below(rng, width - w + 1), h, w
        h = max(1, min(height, round(width / self.ratio[0])))
        w = max(1, min(width, round(height * self.ratio[1])))
        return (height - h) // 2, (width - w) // 2, h, w


@dataclass
class RandomCrop(Transform):
    """Cut a box of fixed size at a random place, after adding a margin.

    Args:
        size: Side of the square box in pixels, or its height and width; an image that is smaller, margin included,
            is padded to it.
        padding: Margin in pixels: one for all sides, or (left and right, top and bottom), or (left, top, right,
            bottom).
        fill: Color of the margin, RGB in 0..255.
        padding_mode: `constant` (the color), `edge`, `reflect` or `symmetric`.
    """

    size: int | Sequence[int]
    padding: int | Sequence[int] = 0
    fill: Range = 0
    padding_mode: str = "constant"

    def __post_init__(self) -> None:
        self._color = color("fill", self.fill)
        if self.padding_mode not in BORDERS:
            raise ValueError(f"padding_mode must be one of {', '.join(BORDERS)}, not {self.padding_mode!r}")

    def apply(self, image: LazyImage, rng: np.random.Generator) -> None:
        """Add the margin and cut."""
        border = BORDERS[self.padding_mode]
        margin = [self.padding] if isinstance(self.padding, int) else list(self.padding)
        if any(margin):
            image.pad(margin * (4 // len(margin)), self._color, border)
        height, width = _pair(self.size)
        low, narrow = max(0, height - image.size[0]), max(0, width - image.size[1])
        if low or narrow:
            image.pad((narrow, low, narrow, low), self._color, border)
        image.crop(below(rng, image.size[0] - height + 1), below(rng, image.size[1] - width + 1), height, width)


@dataclass
class _Flip(Transform):
    """Swap two sides with probability p."""

    p: float = 0.5
    _horizontal: ClassVar[bool]

    def __post_init__(self) -> None:
        check_probability(self.p)

    def apply(self, image: LazyImage, rng: np.random.Generator) -> None:
        """Flip, or do not."""
        if rng.random() < self.p:
            image.flip(self._horizontal, not self._horizontal)


class RandomHorizontalFlip(_Flip):
    """Swap left and right with probability p."""

    _horizontal = True


class RandomVerticalFlip(_Flip):
    """Swap top and bottom with probability p."""

    _horizontal = False


@dataclass
class RandomAffine(Transform):
    """Rotate, shear, scale and shift about the center of the image (bilinear).

    Args:
        degrees: Range of the rotation in degrees; a number d stands for -d..d.
        translate: Largest shift as a share of width and of height; null for none.
        scale: Range of the scale factor; null for none.
        shear: Range of the horizontal shear in degrees, or of both as (x low, x high, y low, y high); null: none.
        fill: Color outside the image, RGB in 0..255.
    """

    degrees: Range
    translate: Sequence[float] | None = None
    scale: Sequence[float] | None = None
    shear: Range | None = None
    fill: Range = 0

    def __post_init__(self) -> None:
        self._color = color("fill", self.fill)
        shear = [0.0] * 4 if self.shear is None else self.shear
        x, y = (shear[:2], shear[2:]) if isinstance(shear, Sequence) and len(shear) == 4 else (shear, (0.0, 0.0))
        scale = limits("scale", (1.0, 1.0) if self.scale is None else self.scale, 1.0, 1e-6)
        self._limits = limits("degrees", self.degrees, 0.0), scale, limits("shear", x, 0.0), limits("shear", y, 0.0)

    def apply(self, image: LazyImage, rng: np.random.Generator) -> None:
        """Draw angle, shifts, scale and shears, and warp."""
        angles, scales, shear_x, shear_y = self._limits
        height, width = image.size
        angle = uniform(rng, *angles)
        shift = (0.0, 0.0)
        if self.translate is not None:
            # Whole pixels, as in torchvision
            x, y = (reach * side for reach, side in zip(self.translate, (width, height), strict=True))
            shift = (round(uniform(rng, -x, x)), round(uniform(rng, -y, y)))
        scale, shear = uniform(rng, *scales), (uniform(rng, *shear_x), uniform(rng, *shear_y))
        image.warp(affine_matrix(image.size, angle, shift, scale, shear), self._color)


def affine_matrix(
    size: tuple[int, int],
    angle: float,
    shift: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
    shear: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Return the affine map of torchvision's `functional.affine`, from output to input.

    Args:
        size: Height and width of the image in pixels.
        angle: Clockwise rotation in degrees.
        shift: Shift of the image in pixels, to the right and down.
        scale: Scale factor of the image.
        shear: Horizontal and vertical shear in degrees.

    Returns:
        The 3 x 3 matrix, float64, in continuous coordinates (x, y, 1).
    """
    turn, (x, y) = math.radians(angle), map(math.radians, shear)
    a, c = math.cos(turn - y) / math.cos(y), math.sin(turn - y) / math.cos(y)
    b, d = -a * math.tan(x) - math.sin(turn), math.cos(turn) - c * math.tan(x)
    # The inverse of scale * [[a, b], [c, d]], whose determinant is scale ** 2
    a, b, c, d = d / scale, -b / scale, -c / scale, a / scale
    center_x, center_y = size[1] / 2, size[0] / 2
    to_x, to_y = center_x + shift[0], center_y + shift[1]
    return np.array([[a, b, center_x - a * to_x - b * to_y], [c, d, center_y - c * to_x - d * to_y], [0, 0, 1]])


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
