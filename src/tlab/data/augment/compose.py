"""Composition of named transforms, and a transform applied with some probability."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tlab.core.errors import UserError
from tlab.data.augment.base import Transform, check_probability, to_pixels
from tlab.data.augment.evaluation import ResizeCrop, ResizePad
from tlab.data.augment.lazy_image import LazyImage


class RandomApply(nn.Module):
    """Apply one transform with probability p.

    torchvision's `RandomApply` takes a list, whose entries the command line cannot reach; here each parameter
    has a key (`aug.transforms.noise.transform.sigma=0.1`).

    Args:
        transform: Callable on one uint8 image `C H W`.
        p: Probability in 0..1.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor], p: float = 0.5):
        super().__init__()
        check_probability(p)
        self.transform: Any = transform
        self.p = p

    def forward(self, x_CHW: Tensor) -> Tensor:
        """Transform one image, or return it unchanged."""
        return self.transform(x_CHW) if torch.rand(()).item() < self.p else x_CHW


class Compose:
    """Transforms applied in order; successive ones of tlab share a `LazyImage`, others get a tensor.

    Args:
        transforms: Name -> `Transform`, or any callable on images C H W that draws from the global generators of
            torch, NumPy or Python; None entries are left out.

    Attributes:
        seeds_globally: Whether a transform may draw from the global generators.
    """

    def __init__(self, transforms: Mapping[str, Any]) -> None:
        self.steps = {name: step for name, step in transforms.items() if step is not None}
        self._lazy = {name for name, step in self.steps.items() if _is_lazy(step)}
        drawing = [step for name, step in self.steps.items() if name not in self._lazy]
        self.seeds_globally = not all(isinstance(step, ResizeCrop | ResizePad) for step in drawing)

    def __call__(self, x_CHW: Tensor, seed: int) -> Tensor:
        """Augment one image.

        Args:
            x_CHW: Image 3 H W, uint8; not written to.
            seed: Seed of all random parameters. The global generators are seeded only if a transform needs them.

        Returns:
            The image 3 H' W', uint8; it may share memory with `x_CHW`.

        Raises:
            UserError: A transform did not return an image.
        """
        if self.seeds_globally:
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
        rng = np.random.default_rng(seed)
        image: Tensor | LazyImage = x_CHW
        for name, step in self.steps.items():
            if name in self._lazy:
                image = image if isinstance(image, LazyImage) else LazyImage(to_pixels(image))
                _apply(step, image, rng)
            else:
                image = step(image.tensor() if isinstance(image, LazyImage) else image)
                _check_image(name, image)
        if isinstance(image, Tensor) and (image.dtype != torch.uint8 or image.shape[0] != 3):
            image = LazyImage(to_pixels(image))
        return image.tensor() if isinstance(image, LazyImage) else image


def _is_lazy(step: Any) -> bool:
    return _is_lazy(step.transform) if isinstance(step, RandomApply) else isinstance(step, Transform)


def _apply(step: Any, image: LazyImage, rng: np.random.Generator) -> None:
    """Apply a transform for which `_is_lazy` holds."""
    if not isinstance(step, RandomApply):
        step.apply(image, rng)
    elif rng.random() < step.p:
        _apply(step.transform, image, rng)


def _check_image(name: str, x: Any) -> None:
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[0] not in (1, 3):
        what = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise UserError(
            f"aug.transforms.{name} returned {what}, not a 3 H W tensor: mend it, or leave it out with "
            f"aug.transforms.{name}=null."
        )
