"""Caches of large files: one process at a time writes an entry, and the least recently used are evicted."""

import os
import shutil
import time
from collections.abc import Collection
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from tlab.core.locks import FileLock

LEFT_OVER = 24 * 60 * 60  # seconds after which a temporary file counts as abandoned by a killed process
LOCK = ".lock"


def open_locked(path: Path) -> AbstractContextManager[bool]:
    """Return a lock that one process at a time holds, on the empty file `.NAME.lock` beside `path`; others wait.

    Where the file system has no locks, nobody waits and the block gets False: two processes then do the same work,
    which is harmless if each writes to a temporary file of its own.

    Args:
        path: File or folder that the block creates. Check inside the block whether another process has created it.
    """
    return FileLock(path.parent / f".{path.name}{LOCK}").held()


def touch(entry: Path) -> None:
    """Mark an entry as used now, for `evict`."""
    with suppress(OSError):  # a read-only cache, or an entry just evicted
        os.utime(entry)


def evict(folder: Path, limit_bytes: int, keep: Collection[Path] = ()) -> None:
    """Remove the least recently used entries of a folder until the rest fits the limit.

    An entry is a file or a folder directly below `folder` whose name does not begin with a dot; its modification
    time says when it was last used (`touch`). On Linux and macOS a process that has mapped a removed entry keeps
    its content. Temporary files (names that begin with a dot) are removed after a day.

    Args:
        folder: Folder of the entries; it need not exist.
        limit_bytes: Limit on the size of all entries together, in bytes.
        keep: Entries that are never removed, even if they alone exceed the limit.
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
    for _, path, size in sorted(entries):
        if total > limit_bytes and path not in kept and _remove(path):
            total -= size


def size_of(entry: Path) -> int:
    """Return the size in bytes of a file, or of all files below a folder."""
    files = [path for path in entry.rglob("*") if path.is_file()] if entry.is_dir() else [entry]
    return sum(file.stat().st_size for file in files)


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _remove(entry: Path) -> bool:
    """Remove a file or a folder; return False if that failed."""
    if entry.is_dir():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        with suppress(OSError):
            entry.unlink()
    return not entry.exists()
