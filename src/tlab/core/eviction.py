"""Large files that can be computed again: one process at a time writes each, and old ones make room for new."""

import os
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tlab.core.locks import FileLock

LEFT_OVER = 24 * 60 * 60  # seconds after which a temporary file is taken for one of a process that was killed
LOCK = ".lock"


@contextmanager
def open_locked(path: Path) -> Iterator[None]:
    """Keep other processes out of the block; they wait at its door.

    The lock is the empty file `.NAME.lock` beside `path`. Where the file system has no locks, nobody waits: two
    processes then do the same work, which is harmless as long as they write atomically.

    Args:
        path: what the block makes. Look whether it is there inside the block: another process may have made it.
    """
    with FileLock(path.parent / f".{path.name}{LOCK}").held():
        yield


def touch(entry: Path) -> None:
    """Mark a store as used now, which `evict` goes by."""
    with suppress(OSError):  # a cache that may only be read, or an entry that went just now
        os.utime(entry)


def evict(folder: Path, limit_bytes: int, keep: Collection[Path] = ()) -> list[Path]:
    """Remove the least recently used entries of a folder until the rest fits into the limit.

    An entry is a file or a folder directly below `folder` whose name does not begin with a dot; its modification
    time says when it was used last (`touch`). On Linux and macOS a process that has a removed entry mapped keeps
    it until it lets go. Temporary files (names that begin with a dot) of killed processes go after a day.

    Args:
        folder: where the stores lie; it need not exist.
        limit_bytes: what all entries may take together.
        keep: entries that stay, even where they alone exceed the limit.

    Returns:
        The entries that were removed, oldest first.
    """
    now, kept = time.time(), set(keep)
    entries = []
    for path in folder.glob("*"):
        try:
            if not path.name.startswith("."):
                entries.append((path.stat().st_mtime, path, size_of(path)))
            elif path.suffix != LOCK and now - path.stat().st_mtime > LEFT_OVER:
                _remove(path)
        except FileNotFoundError:  # another process removed it
            continue
    total = sum(size for _, _, size in entries)
    removed = []
    for _, path, size in sorted(entries):
        if total <= limit_bytes:
            break
        if path not in kept and _remove(path):
            removed.append(path)
            total -= size
    return removed


def size_of(entry: Path) -> int:
    """Return the bytes that a file takes, or all files below a folder."""
    if not entry.is_dir():
        return entry.stat().st_size
    return sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())


def free_bytes(folder: Path) -> int:
    """Return how many bytes may still be written to the disk of a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def free_memory() -> int:
    """Return how many bytes of memory programs may still take; where the system does not say, 4 GiB."""
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return 4 * 2**30


def _remove(entry: Path) -> bool:
    """Remove a file or a folder; False where that is not possible now."""
    if entry.is_dir():
        shutil.rmtree(entry, ignore_errors=True)
        return not entry.exists()
    try:
        entry.unlink(missing_ok=True)
    except OSError:
        return False
    return True
