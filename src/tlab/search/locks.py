"""Locks on files, by which workers keep out of each other's way; a lock goes when its process does."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tlab.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: one worker at a time
    fcntl = None  # type: ignore[assignment]


class FileLock:
    """A lock that one process holds at a time, on this machine and on others that share the folder.

    Args:
        path: The file; made where it is not there, and left there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def acquire(self, wait: bool = True) -> bool:
        """Take the lock; without `wait`, return False where another process holds it.

        Raises:
            UserError: The file system has no locks.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("w")
        try:
            if fcntl is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except (BlockingIOError, PermissionError):
            file.close()
            return False
        except OSError as error:
            file.close()
            raise UserError(
                f"{self.path} cannot be locked ({error.strerror}); give the study another place with dir=DIR, on a "
                f"file system with locks"
            ) from error
        self._file = file
        return True

    def release(self) -> None:
        """Let go."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock inside the block."""
        self.acquire()
        try:
            yield
        finally:
            self.release()
