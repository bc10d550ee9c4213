"""What a sweep and each of its runs return."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to.

    Attributes:
        directory: Of the sweep.
        finished: How many of the command's runs are finished, by it or before.
        failed: How many are not.
    """

    directory: Path
    finished: int
    failed: int


@dataclass(frozen=True)
class Failure:
    """What a failed run of a sweep returns.

    Attributes:
        reason: One sentence.
        busy: Another process is at work on the run, or this one takes none any more: it can be tried again.
    """

    reason: str
    busy: bool = False

    def __str__(self) -> str:
        return self.reason
