"""Transforms of colors: jitter, noise and erasing, with torchvision's names and meanings.

Successive jitters are applied as one 3 x 4 matrix on (R, G, B, 1) (see `lazy_image.LazyImage`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch

from tlab.data.augment.base import Range, Transform, below, check_probability, color, limits, sides, uniform
from tlab.data.augment.lazy_image import LazyImage

GRAY = np.array([0.2989, 0.587, 0.114])  # ITU-R BT.601, as rounded in torchvision's rgb_to_grayscale
# RGB -> YIQ (NTSC 1953): lightness, and two orthogonal axes of color
YIQ = np.array([GRAY, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
RGB = np.linalg.inv(YIQ)


@dataclass
class ColorJitter(Transform):
    """Change brightness, contrast, saturation and hue, in random order.

    As torchvision's, except that nothing is clipped between one change and the next, and that hue rotates about the
    gray axis (in YIQ), which keeps lightness and saturation; torchvision's rotation in HSV keeps max(R, G, B).

    Args:
        brightness: Factor on all colors; a number b stands for 1 - b..1 + b.
        contrast: Factor on the distance from the mean gray; a number as above.
        saturation: Factor on the distance from each pixel's gray; a number as above.
        hue: Rotation as a share of the color circle; a number h stands for -h..h, at most 0.5.
    """

    brightness: Range = 0.0
    contrast: Range = 0.0
    saturation: Range = 0.0
    hue: Range = 0.0

    def __post_init__(self) -> None:
        from_zero = ("brightness", "contrast", "saturation")
        self._limits = [limits(name, getattr(self, name), 1.0, 0.0) for name in from_zero]
        self._limits.append(limits("hue", self.hue, 0.0, -0.5, 0.5))

    def apply(self, image: LazyImage, rng: np.random.Generator) -> None:
        """Draw an order and the factors, and change the colors."""
        for kind in rng.permutation(len(self._limits)):
            low, high = self._limits[kind]
            if low == high == (0.0 if kind == 3 else 1.0):
                continue
            amount = uniform(rng, low, high)
            if kind == 0:
                image.recolor(brightness_matrix(amount))
            elif kind == 1:
                image.recolor(contrast_matrix(amount, float(GRAY @ image.mean())))
            elif kind == 2:
                image.recolor(saturation_matrix(amount))
            else:
                image.recolor(hue_matrix(amount))


def brightness_matrix(factor: float) -> np.ndarray:
    """Return the 3 x 4 matrix that multiplies all colors."""
    return _matrix(factor * np.eye(3))


def contrast_matrix(factor: float, gray: float) -> np.ndarray:
    """Return the 3 x 4 matrix that multiplies the distance from a gray in 0..255."""
    return _matrix(factor * np.eye(3), (1 - factor) * gray)


def saturation_matrix(factor: float) -> np.ndarray:
    """Return the 3 x 4 matrix that multiplies each pixel's distance from its own gray."""
    return _matrix(factor * np.eye(3) + (1 - factor) * GRAY)


def hue_matrix(turns: float) -> np.ndarray:
    """Return the 3 x 4 matrix that rotates colors about the gray axis, by a share of the circle."""
    # In YIQ red lies at about 20 degrees and green at about 240: the opposite sense of the hue circle
    cos, sin = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    turn = np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])
    return _matrix(RGB @ turn @ YIQ)


def _matrix(linear: np.ndarray, offset: float = 0.0) -> np.ndarray:
    return np.column_stack([linear, np.full(3, offset)])


@dataclass
class GaussianNoise(Transform):
    """Add normal noise to every value of every pixel.

    Args:
        mean: Mean of the noise, where white is 1.
        sigma: Standard deviation of the noise, where white is 1.
    """

    mean: float = 0.0
    sigma: float = 0.1

    def __post_init__(self) -> None:
        if self.sigma < 0:
            raise ValueError(f"sigma must not be negative: {self.sigma}")

    def apply(self, image: LazyImage, rng: np.random.Generator) -> None:
        """Add noise, and clip to 0..255."""
        x_HWC = image.pixels()
        # 16 random bits pick one of 65,536 equally likely levels: five times as fast as drawing normals
        bits = rng.bit_generator.random_raw(x_HWC.size // 4 + 1).view(np.uint16)[: x_HWC.size]
        noise = np.take(_normal_levels(self.mean * 255, self.sigma * 255), bits).reshape(x_HWC.shape)
        image.replace(cv2.add(x_HWC, noise, dtype=cv2.CV_8U))


@lru_cache(maxsize=8)
def _normal_levels(mean: float, sigma: float) -> np.ndarray:
    """Return the 2 ** 16 quantiles of a normal distribution, rounded: int16."""
    places = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
    levels = mean + sigma * torch.special.ndtri(places)
    return levels.round().clamp(-32768, 32767).to(torch.int16).numpy()


@dataclass
class RandomErasing(Transform):
    """Paint a box of random size, shape and place, with probability p.

    Args:
        p: Probability of painting a box.
        scale: Range of the box's share of the image's area.
        ratio: Range of height / width, drawn log-uniformly.
        value: Color of the box, RGB in 0..255.
    """

    p: float = 0.5
    scale: Sequence[float] = (0.02, 0.33)
    ratio: Sequence[float] = (0.3, 3.3)
    value: Range = 0

    def __post_init__(self) -> None:
        check_probability(self.p)
        self._color = color("value", self.value)
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be a range above 0, not {self.ratio}")

    def apply(self, image: LazyImage, rng: np.random.Generator) -> None:
        """Paint a box; an image too thin for any such box is left unchanged."""
        if rng.random() >= self.p:
            return
        height, width = image.size
        for h, w in sides(rng, height * width, self.scale, self.ratio):
            if h < height and w < width:
                top, left = below(rng, height - h + 1), below(rng, width - w + 1)
                painted = image.pixels().copy()
                painted[top : top + h, left : left + w] = self._color
                image.replace(painted)
                return
