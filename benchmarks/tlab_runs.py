"""One tlab run of a benchmark: carried out, gone on with, or read where it is finished already."""

from dataclasses import dataclass
from pathlib import Path

from tlab.config.hydra import compose
from tlab.config.overrides import as_override
from tlab.core.hardware import limit_spinning
from tlab.runs.directory import RunDirectory
from tlab.train import train

# Nothing is drawn, so that the time is that of the training. It changes no result.
UNDRAWN = ["logger=none", "dashboards.preview_images=0", "dashboards.top_losses=0"]


@dataclass(frozen=True)
class Result:
    """Accuracies in 0..1, and seconds of training and validation.

    Attributes:
        last: Validation accuracy of the last epoch.
        best: Validation accuracy of the best one.
        seconds: Seconds of training and validation.
        test: Test accuracy of the best epoch; NaN without a test split.
    """

    last: float
    best: float
    seconds: float
    test: float


def run(directory: Path, data: Path, weights: str, overrides: list[str]) -> Result:
    """Carry out one run in `directory`; a finished one is only read, a stopped one goes on.

    Args:
        directory: The run's own.
        data: Folder that holds train/ and val/.
        weights: `backbone.weights`.
        overrides: Whatever else the command line would say.
    """
    places = {"data.root": str(data), "backbone.weights": weights}
    return carry_out(directory, [*overrides, *(as_override(key, value) for key, value in places.items())])


def carry_out(directory: Path, overrides: list[str]) -> Result:
    """Carry out one run in `directory`, all of whose command line is `overrides`; else as `run`."""
    limit_spinning()  # as in a command; torch is not loaded yet
    metrics = train(compose([*UNDRAWN, *overrides, as_override("run_dir", str(directory))]))
    accuracy = [float(row["val/acc"]) for row in RunDirectory(directory).history()]
    return Result(accuracy[-1], max(accuracy), metrics["fit_seconds"], metrics.get("test/acc", float("nan")))
