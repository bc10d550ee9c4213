"""The result of a run in Python: its metrics, and where it lies."""

from collections.abc import Mapping
from pathlib import Path


class FinishedRun(dict[str, float]):
    """The metrics of a finished run by name (`val/acc`); where a path is expected, it stands for its directory.

    Args:
        metrics: Contents of `metrics.json`.
        path: The run's directory.
    """

    def __init__(self, metrics: Mapping[str, float], path: Path) -> None:
        super().__init__(metrics)
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)
