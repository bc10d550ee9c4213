"""Base class and helpers of tlab's own transforms."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from tlab.data.augment.lazy_image import Color, LazyImage

Range = float | Sequence[float]
ATTEMPTS = 10  # draws of a box of random shape that fits into the image, as in torchvision


class Transform:
    """A transform of a `LazyImage`; successive ones share it, and so one warp and one color change.

    It can also be called alone on a uint8 image `3 H W`; it then draws from torch's global generator, as
    torchvision's transforms do.
    """

    def apply(self, image: LazyImage, rng: np.random.Generator) -> None:
        """Draw the parameters from `rng`, and transform the image."""
        raise NotImplementedError

    def __call__(self, x_CHW: Tensor) -> Tensor:
        """Transform one image: C H W, uint8 (other dtypes are converted), to 3 H W, uint8."""
        image = LazyImage(to_pixels(x_CHW))
        self.apply(image, np.random.default_rng(int(torch.randint(2**62, ()))))
        return image.tensor().clone()


def to_pixels(x_CHW: Tensor) -> np.ndarray:
    """Convert an image to H W 3, uint8.

    Args:
        x_CHW: Image C H W with C = 1 or 3; uint8, another integer type, or float in 0..1.
    """
    if x_CHW.dtype != torch.uint8:
        x_CHW = TF.to_dtype(x_CHW.clamp(0, 1) if x_CHW.is_floating_point() else x_CHW, torch.uint8, scale=True)
    return np.ascontiguousarray(x_CHW.expand(3, -1, -1).permute(1, 2, 0).numpy())


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw from [low, high)."""
    return low + (high - low) * rng.random()


def below(rng: np.random.Generator, stop: int) -> int:
    """Draw a whole number from 0 to `stop - 1`."""
    return int(rng.random() * stop)


def sides(
    rng: np.random.Generator, area: int, scale: Sequence[float], ratio: Sequence[float]
) -> Iterator[tuple[int, int]]:
    """Draw the sides of boxes: their share of `area` is uniform in `scale`, their ratio log-uniform in `ratio`."""
    for _ in range(ATTEMPTS):
        pixels, quotient = area * uniform(rng, *scale), math.exp(uniform(rng, *map(math.log, ratio)))
        yield round(math.sqrt(pixels * quotient)), round(math.sqrt(pixels / quotient))


def limits(
    name: str, value: Range, center: float, least: float = -np.inf, most: float = np.inf
) -> tuple[float, float]:
    """Return a range: `center` plus or minus `value` if it is a number, else the pair itself.

    Raises:
        ValueError: `value` is not a range, or exceeds `least` or `most`.
    """
    if isinstance(value, Sequence):
        pair = [float(end) for end in value]
    else:
        pair = [max(center - value, least), center + value] if value >= 0 else [1, 0]
    if len(pair) != 2 or not least <= pair[0] <= pair[1] <= most:
        raise ValueError(f"{name} must be a number of at least 0 or a range (low, high), not {value!r}")
    return pair[0], pair[1]


def color(name: str, value: Range) -> Color:
    """Return an RGB color in 0..255 from three numbers, or from one for a gray.

    Raises:
        ValueError: `value` is not a color.
    """
    parts = list(value) if isinstance(value, Sequence) else [value] * 3
    if len(parts) != 3 or not all(isinstance(part, int | float) and 0 <= part <= 255 for part in parts):
        raise ValueError(f"{name} must be a gray or an RGB color in 0..255, not {value!r}")
    return parts[0], parts[1], parts[2]


def check_probability(p: float) -> None:
    """Raise a `ValueError` unless p lies in 0..1."""
    if not 0 <= p <= 1:
        raise ValueError(f"p must lie in 0..1, not {p}")
