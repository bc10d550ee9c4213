"""One quick run for all tests of serving."""

from pathlib import Path

import pytest

from tlab.train import train


@pytest.fixture(scope="session")
def trained(compose_quick, tmp_path_factory) -> Path:
    """A run that knows blue, green and red."""
    directory = tmp_path_factory.mktemp("served") / "run"
    train(compose_quick("finetune=head", "trainer.max_epochs=1", run_dir=directory))
    return directory
