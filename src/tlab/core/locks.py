"""File locks between processes; a lock is released when its process ends.

Based on `lockf`, not on `flock`, whose locks forked loader workers inherit. They hold between processes on this
machine and on others that share the folder, not between threads.
"""

import errno
import os
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

    On Windows nothing is locked, and True is returned.

    Raises:
        OSError: The file system has no locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if wait or error.errno not in (errno.EAGAIN, errno.EACCES):  # which say that another process has it
            raise
        return False
    return True


class FileLock:
    """A lock that one process holds at a time.

    Args:
        path: The lock file; created if missing.
        way_out: Advice for the user where the file system has no locks; None: there every process gets the lock.
        removed: Whether the file is removed on release; else it stays for good.

    Attributes:
        excludes: Whether it keeps others out while it is held: False where the file system has no locks.
    """

    def __init__(self, path: Path, way_out: str | None = None, removed: bool = False) -> None:
        self.path = path
        self.way_out = way_out
        self.removed = removed
        self.excludes = THERE_ARE_LOCKS
        self._file: IO[Any] | None = None

    def acquire(self, wait: bool = True) -> bool:
        """Take the lock; without `wait`, return False where another process holds it.

        Raises:
            UserError: The file system has no locks, and `way_out` is given.
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
            self.excludes = False
        if self.removed and not _is_at(file, self.path):  # its holder has removed it since it was opened
            file.close()
            return self.acquire(wait)
        self._file = file
        return True

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._file is not None:
            if self.removed and os.name != "nt":  # where an open file stays
                self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Wait for the lock, and hold it inside the block; yields `excludes`."""
        self.acquire()
        try:
            yield self.excludes
        finally:
            self.release()


def _is_at(file: IO[Any], path: Path) -> bool:
    """Tell whether an open file is the one that has this path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
