"""Original models and images that the tests of the staged backbones compare with."""

from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn


def original(name: str, **options: Any) -> nn.Module:
    """A torchvision model, or a timm one where the name begins with `timm:`, seeded."""
    torch.manual_seed(0)
    if name.startswith("timm:"):
        return timm.create_model(name.removeprefix("timm:"), **options)
    return torchvision.models.get_model(name, **options)


def images(size: int, batch: int = 2) -> Tensor:
    """Normalised images `B C H W`, always the same."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
