"""A sweep of tiny runs for the launchers."""

from collections.abc import Callable
from pathlib import Path

import pytest
from remote_sweeps import Sweep


@pytest.fixture
def make_sweep(photos: Path, tmp_path: Path) -> Callable[[str], Sweep]:
    """Return a sweep in a directory of that name."""
    return lambda name: Sweep(photos, tmp_path / name)
