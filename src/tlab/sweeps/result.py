"""What a sweep and each of its runs return."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from tlab.core.error_messages import one_line


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


def over(returned: JobReturn) -> Any:
    """Return what the task of a job has returned, or a `Failure` if it raised."""
    value = returned._return_value  # the property would print
    return value if returned.status == JobStatus.COMPLETED else Failure(one_line(value))
