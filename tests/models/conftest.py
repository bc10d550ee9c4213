"""A backbone shared by the tests of the models."""

import pytest
import torch

from tlab.models.backbones import build_backbone
from tlab.models.stages import StagedBackbone


@pytest.fixture(scope="session")
def resnet() -> StagedBackbone:
    """An untrained resnet18 that no test may change."""
    torch.manual_seed(0)
    return build_backbone("resnet18", weights=None, image_size=32)
