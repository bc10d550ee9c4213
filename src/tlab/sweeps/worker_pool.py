"""Worker processes of a command on this machine, whose own process waits: their shares of it, and how they stop."""

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from types import FrameType

from tlab.core.hardware import cpu_count, gpus
from tlab.core.locks import THERE_ARE_LOCKS, lock
from tlab.core.signals import ENDING

SHUTDOWN_TIMEOUT = 60  # seconds that stopped runs have for their last checkpoint

_place: TextIOWrapper | None = None  # file of this process's place, locked for as long as it lives
_stopping = False
_at_work = False


@dataclass(frozen=True)
class WorkerPool:
    """What the workers of a sweep on one machine share.

    Args:
        folder: Folder to which they write their process ids.
        waiting: Process id of the command.
        at_once: Number of workers.
        gpus: `CUDA_VISIBLE_DEVICES` of each worker in turn; empty where there are no GPUs.
    """

    folder: Path
    waiting: int
    at_once: int
    gpus: tuple[str, ...]

    def workers(self) -> list[int]:
        """Return the process ids of the workers that have begun."""
        return [int(text) for file in self.folder.iterdir() if (text := file.read_text(encoding="utf-8"))]

    @contextmanager
    def work(self, output: Path) -> Iterator[None]:
        """Run the block with this process's share of the machine; what it prints goes to the file `output`.

        Raises:
            SystemExit: This process was told to stop, in this run or before it.
        """
        global _at_work, _stopping
        if _place is None:
            self.become_worker()
        if _stopping:
            raise SystemExit(128 + signal.SIGTERM)
        _at_work = True
        try:
            with _printing_to(output):
                yield
        except SystemExit:  # a run that trains has listened to the signal in place of `_stop`
            _stopping = True
            raise
        finally:
            _at_work = False

    @property
    def is_stopping(self) -> bool:
        """Whether this process was told to stop."""
        return _stopping

    def become_worker(self) -> None:
        """Take a place in the pool with its share of the machine, and obey the command's process alone."""
        global _place
        number, _place = _take_place(self.folder)
        os.environ["TLAB_CORES"] = str(max(1, cpu_count() // self.at_once))
        if self.gpus:  # before torch looks for them
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus[number % len(self.gpus)]
        if hasattr(os, "setpgid"):
            os.setpgid(0, 0)  # Ctrl-C reaches the waiting process only, which hands it on once
        for name in (signal.SIGINT, *ENDING):
            signal.signal(name, _stop)
        threading.Thread(target=_end_with, args=(self.waiting,), daemon=True).start()


def shares(devices: int) -> tuple[str, ...]:
    """Return the GPUs of each worker, `devices` of them joined by commas."""
    here = gpus()
    starts = range(0, len(here) - devices + 1, devices)
    return tuple(",".join(here[start : start + devices]) for start in starts)


@contextmanager
def forwarding_signals(pool: WorkerPool | None, under_way: Callable[[], object], what: str) -> Iterator[None]:
    """Let the first SIGINT, SIGTERM or hang-up stop the workers, which save, then the command; a second stops all.

    Args:
        pool: Pool of the workers; None where they are on other machines, and nothing is handed on.
        under_way: Tells whether any of them still saves.
        what: What they work on, for the message.
    """
    if pool is None:
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
            for worker in pool.workers():
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGTERM)
            deadline = time.monotonic() + SHUTDOWN_TIMEOUT
            while under_way() and time.monotonic() < deadline:
                time.sleep(0.2)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, *ENDING)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _take_place(folder: Path) -> tuple[int, TextIOWrapper]:
    """Return the first free place, and its file, which holds this process's id and is locked until it ends."""
    for number in itertools.count():
        file = (folder / str(number)).open("a+", encoding="utf-8")
        if lock(file, wait=False) and (THERE_ARE_LOCKS or not file.tell()):
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            return number, file
        file.close()
    raise AssertionError


def _stop(number: int, frame: FrameType | None) -> None:
    """Take no other run; one that has not begun to train ends here (one that trains listens itself, and saves)."""
    global _stopping
    _stopping = True
    if _at_work:
        raise SystemExit(128 + number)


def _end_with(waiting: int) -> None:
    """Stop when the waiting process is gone, within `SHUTDOWN_TIMEOUT` seconds."""
    while os.getppid() == waiting:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + SHUTDOWN_TIMEOUT
    while _at_work and time.monotonic() < deadline:
        time.sleep(0.2)
    os._exit(1)


@contextmanager
def _printing_to(output: Path) -> Iterator[None]:
    """Send standard output and error to the end of a file, those of libraries and subprocesses too."""
    output.parent.mkdir(parents=True, exist_ok=True)
    before = {number: os.dup(number) for number in (1, 2)}
    with output.open("ab") as file:
        for number in before:
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in before.items():
            os.dup2(copy, number)
            os.close(copy)
