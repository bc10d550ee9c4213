"""One quick run, and a function that gives the command in this process."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tlab.config.hydra import compose
from tlab.predict import run
from tlab.train import train

QUICK = (
    *("data.image_size=32", "data.batch_size=12", "data.num_workers=0", "backbone.weights=null", "trainer=cpu"),
    *("trainer.precision=32-true", "trainer.max_epochs=1", "finetune=head", "logger=none"),
    "backbone.upto=layer1",
)


@pytest.fixture(scope="session")
def make_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that trains on blue, green and red images, and returns the run's directory."""

    def make(*overrides: str) -> Path:
        directory = tmp_path_factory.mktemp("run")
        train(compose([*QUICK, f"data.root={photos}", f"run_dir={directory}", *overrides]))
        return directory

    return make


@pytest.fixture(scope="session")
def trained(make_run: Callable[..., Path]) -> Path:
    """A run that knows blue, green and red."""
    return make_run()


@pytest.fixture
def give(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that gives tlab.predict arguments in the folder `tmp_path`, and returns the rows."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str, read: str | None = "preds.csv") -> list[dict[str, str]]:
        own = () if any(argument.startswith("run=") for argument in arguments) else (f"run={trained}",)
        run(compose([*own, "num_workers=0", "accelerator=cpu", "batch_size=4", *arguments], "predict"))
        if read is None:
            return []
        with (tmp_path / read).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    return command
