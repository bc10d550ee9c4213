"""The signals that ask a run to stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# A cluster announces the end of a job's time with one of these (`sbatch --signal`); Windows has none of the four.
WARNINGS = tuple(signal.Signals[name] for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
# A terminal that closes hangs up, unless `nohup` has the command ignore it
HANG_UP = tuple(
    signal.Signals[name]
    for name in ("SIGHUP",)
    if hasattr(signal, name) and signal.getsignal(signal.Signals[name]) is not signal.SIG_IGN
)
ENDING = (signal.SIGTERM, *HANG_UP)
STOPPING = (signal.SIGINT, *ENDING, *WARNINGS)


def leave(number: int, frame: FrameType | None) -> None:
    """Exit with the code of a signal: its handler outside a run, which has its own."""
    raise SystemExit(128 + number)


def ignore_stopping() -> None:
    """Ignore these signals from here on: this process is ending, and whoever sends one waits for that already."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def end_when_stopped() -> None:
    """Let these signals end the process without a word from here on: no Python runs any more that could answer."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM, and the hang-up of a terminal, into SystemExit in the block."""
    before = {number: signal.signal(number, leave) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
