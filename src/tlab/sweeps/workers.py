"""What the workers of a command share: the GPUs, and the signal that stops them."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from tlab.core.hardware import gpus
from tlab.sweeps.worker_pool import SHUTDOWN_TIMEOUT, WorkerPool


def shares(devices: int) -> tuple[str, ...]:
    """Return the GPUs of each worker, `devices` of them joined by commas."""
    here = gpus()
    starts = range(0, len(here) - devices + 1, devices)
    return tuple(",".join(here[start : start + devices]) for start in starts)


@contextmanager
def handing_on(machine: WorkerPool | None, under_way: Callable[[], object], what: str) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM stop the workers, which save, then the command; a second stops all.

    Args:
        machine: Pool of the workers; None where they are on other machines, and nothing is handed on.
        under_way: Tells whether any of them still saves.
        what: What they work on, for the message.
    """
    if machine is None:
        yield
        return
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            print(
                f"tlab: stopping; the {what} under way save first (once more: at once)", file=sys.stderr, flush=True
            )
            for worker in machine.workers():
                try:
                    os.kill(worker, signal.SIGTERM)
                except ProcessLookupError:
                    continue
            deadline = time.monotonic() + SHUTDOWN_TIMEOUT
            while under_way() and time.monotonic() < deadline:
                time.sleep(0.2)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
