"""Mixup and CutMix, which combine two images and their labels."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tlab.core.errors import UserError


@dataclass(frozen=True)
class Mixing:
    """Mix each training image with the next one of the epoch's order.

    Mixup (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", eq. 1) blends the whole images;
    CutMix (Yun et al. 2019, "CutMix", eq. 1 and 2) pastes a box of the partner. If both are on, each image
    draws one of them with equal probability.

    Args:
        mixup_alpha: Parameter of Beta(alpha, alpha), from which lambda is drawn; 0 turns mixup off.
        cutmix_alpha: The same for CutMix.
        p: Probability that an image is mixed at all.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    p: float = 1.0

    def __post_init__(self) -> None:
        if min(self.mixup_alpha, self.cutmix_alpha) < 0:
            raise UserError("aug.mix: mixup_alpha and cutmix_alpha must not be negative (0 turns one off).")
        if not 0 <= self.p <= 1:
            raise UserError(f"aug.mix.p={self.p} is no probability: give a number from 0 to 1.")

    @property
    def active(self) -> bool:
        """Whether anything is ever mixed."""
        return self.p > 0 and max(self.mixup_alpha, self.cutmix_alpha) > 0

    def mix(self, image: Tensor, partner: Tensor, seed: int) -> tuple[Tensor, float]:
        """Mix two images.

        Args:
            image: Image C H W, uint8.
            partner: Image to mix in, C H W, uint8.
            seed: Seed of all that is drawn.

        Returns:
            The mixed image (C H W, uint8) and the weight of `image`'s label in 0..1; `partner`'s label has
            the rest.
        """
        kind, weight, draw = self._drawn(seed)
        return (image, 1.0) if kind is None else kind(image, partner, weight, draw)

    def weight(self, seed: int) -> float:
        """Return the weight that mixup gives an image, for mixing features instead of images.

        As in Manifold mixup (Verma et al. 2019, "Manifold Mixup").
        """
        assert self.cutmix_alpha == 0
        return self._drawn(seed)[1]

    def _drawn(self, seed: int) -> tuple[Callable[..., tuple[Tensor, float]] | None, float, random.Random]:
        """Return the mixing function (None: no mixing), the image's weight, and the generator for the rest."""
        draw = random.Random(seed)
        kinds = [(kind, a) for kind, a in ((_blend, self.mixup_alpha), (_paste, self.cutmix_alpha)) if a > 0]
        if not kinds or draw.random() >= self.p:
            return None, 1.0, draw
        kind, alpha = draw.choice(kinds)
        return kind, draw.betavariate(alpha, alpha), draw


def _blend(image: Tensor, partner: Tensor, weight: float, draw: random.Random) -> tuple[Tensor, float]:
    blended = torch.lerp(partner.float(), image.float(), weight)
    return blended.round().to(torch.uint8), weight


def _paste(image: Tensor, partner: Tensor, weight: float, draw: random.Random) -> tuple[Tensor, float]:
    height, width = image.shape[-2:]
    half_h, half_w = (0.5 * side * math.sqrt(1 - weight) for side in (height, width))
    y, x = draw.uniform(0, height), draw.uniform(0, width)
    top, bottom = (round(min(max(edge, 0), height)) for edge in (y - half_h, y + half_h))
    left, right = (round(min(max(edge, 0), width)) for edge in (x - half_w, x + half_w))
    pasted = image.clone()
    pasted[:, top:bottom, left:right] = partner[:, top:bottom, left:right]
    # The box is clipped at the border, so lambda becomes the share of the image that is actually left
    return pasted, 1 - (bottom - top) * (right - left) / (height * width)
