"""The signals that ask a run to stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# A cluster announces the end of a job's time with one of these (`sbatch --signal`); Windows has neither.
WARNINGS = tuple(signal.Signals[name] for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
STOPPING = (signal.SIGINT, signal.SIGTERM, *WARNINGS)


def leave(number: int, frame: FrameType | None) -> None:
    """Exit with the code of a signal: its handler outside a run, which has its own."""
    raise SystemExit(128 + number)


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM into SystemExit in the block."""
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
