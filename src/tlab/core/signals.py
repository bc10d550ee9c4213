"""The signals that ask a run to stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# A cluster announces the end of a job's time with one of these (`sbatch --signal`); Windows has neither.
WARNINGS = tuple(signal.Signals[name] for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
STOPPING = (signal.SIGINT, signal.SIGTERM, *WARNINGS)


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM into SystemExit in the block, for work outside a run, which has its own handler."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
