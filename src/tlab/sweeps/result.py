"""What a sweep and each of its runs return."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SweepResult:
    """Result of a sweep.

    Attributes:
        directory: Directory of the sweep.
        finished: Number of the command's runs that are finished, by it or before.
        failed: Number of the command's runs that failed.
    """

    directory: Path
    finished: int
    failed: int


@dataclass(frozen=True)
class Failure:
    """What a failed run of a sweep returns.

    Attributes:
        reason: Reason, in one sentence.
        busy: Whether the run can be tried again: another process has it, or this one is stopping.
    """

    reason: str
    busy: bool = False

    def __str__(self) -> str:
        return self.reason
