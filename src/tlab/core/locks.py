"""Locks on files, by which processes keep out of each other's way; a lock goes when its process does.

They are those of `lockf`, not of `flock`, which forked loader workers inherit. They hold between processes on this
machine and on others that share the folder, not between threads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tlab.core.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

THERE_ARE_LOCKS = fcntl is not None


def lock(file: IO[Any], wait: bool = True) -> bool:
    """Lock an open file until it is closed; without `wait`, return False where another process holds it.

    On Windows nothing is locked, and the answer is True.

    Raises:
        OSError: The file system has no locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        if wait:
            raise
        return False
    return True


class FileLock:
    """A lock that one process holds at a time.

    Args:
        path: The file; made where it is not there, and left there.
        way_out: What the user can do where the file system has no locks; None: there every process gets the lock.
    """

    def __init__(self, path: Path, way_out: str | None = None) -> None:
        self.path = path
        self.way_out = way_out
        self._file: IO[Any] | None = None

    def acquire(self, wait: bool = True) -> bool:
        """Take the lock; without `wait`, return False where another process holds it.

        Raises:
            UserError: The file system has no locks, and there is a way out.
            OSError: The file cannot be opened.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("ab")
        try:
            if not lock(file, wait):
                file.close()
                return False
        except OSError as error:
            if self.way_out is not None:
                file.close()
                raise UserError(f"{self.path} cannot be locked ({error.strerror}); {self.way_out}") from error
        self._file = file
        return True

    def release(self) -> None:
        """Let go."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock inside the block; wait for it at the door."""
        self.acquire()
        try:
            yield
        finally:
            self.release()
