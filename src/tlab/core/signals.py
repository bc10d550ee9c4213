"""The signals that ask a run to stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# A cluster announces with one of these that a job's time is up (`sbatch --signal`); Windows has neither.
WARNINGS = tuple(signal.Signals[name] for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
STOPPING = (signal.SIGINT, signal.SIGTERM, *WARNINGS)


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM into SystemExit where no run listens to it."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
