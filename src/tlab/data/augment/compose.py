"""The named augmentation steps of a run, applied to one image."""

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tlab.core.errors import UserError
from tlab.data.augment.base import Step, generator, to_pixels
from tlab.data.augment.evaluation import ResizeCrop, ResizePad, Sometimes
from tlab.data.augment.lazy_image import Canvas


class Chain:
    """Augmentation steps in order; those of tlab that follow each other share a canvas, others get a tensor.

    Args:
        transforms: name -> `Step`, or any callable on images C H W that draws from torch's or Python's global
            generator; None is left out.

    Attributes:
        seeds_globally: whether a step may draw from the global generators.
    """

    def __init__(self, transforms: Mapping[str, Any]) -> None:
        self.steps = {name: step for name, step in transforms.items() if step is not None}
        self._drawing = {name for name, step in self.steps.items() if _on_canvas(step)}
        self.seeds_globally = not all(_on_canvas(step) or _is_fixed(step) for step in self.steps.values())

    def __call__(self, x_CHW: Tensor, seed: int) -> Tensor:
        """Augment one image.

        Args:
            x_CHW: 3 H W, uint8; not written to.
            seed: what is done is a function of it. The global generators are seeded only if a step needs them.

        Returns:
            3 H' W', uint8; it may share memory with `x_CHW`.

        Raises:
            UserError: a step returned no image.
        """
        if self.seeds_globally:
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
        draws = generator(seed)
        image: Tensor | Canvas = x_CHW
        for name, step in self.steps.items():
            if name in self._drawing:
                image = image if isinstance(image, Canvas) else Canvas(to_pixels(image))
                step.draw(image, draws)
            else:
                image = step(image.tensor() if isinstance(image, Canvas) else image)
                _check_image(name, image)
        if isinstance(image, Canvas):
            return image.tensor()
        if image.dtype != torch.uint8 or image.shape[0] != 3:
            return torch.from_numpy(to_pixels(image)).permute(2, 0, 1)
        return image


def _on_canvas(step: Any) -> bool:
    return isinstance(step, Step) or (isinstance(step, Sometimes) and _on_canvas(step.transform))


def _is_fixed(step: Any) -> bool:
    """Return whether a step surely draws nothing at random."""
    return isinstance(step, ResizeCrop | ResizePad)


def _check_image(name: str, x: Any) -> None:
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[0] not in (1, 3):
        what = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise UserError(
            f"aug.transforms.{name} returned {what}, not a 3 H W tensor: mend it, or leave it out with "
            f"aug.transforms.{name}=null."
        )
