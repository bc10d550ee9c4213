"""The names of very many files, in little memory."""

import os
from array import array
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path


class FileList:
    """Absolute paths of files, in order, in one block of memory; a text for each would take ten times as much.

    Args:
        root: Absolute folder in which most of them lie.
        names: Their POSIX paths, relative to `root` or absolute.
    """

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        self.root = root
        self._text, self._ends = bytearray(), array("Q", [0])
        for name in names:
            self._text += name.encode("utf-8", "surrogateescape")
            self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[str]:
        return map(self.path, range(len(self)))

    def name(self, number: int) -> str:
        """Return a file's path, relative to the root where it lies below it."""
        start, end = self._ends[number : number + 2]
        return self._text[start:end].decode("utf-8", "surrogateescape")

    def path(self, number: int) -> str:
        """Return a file's absolute path."""
        return os.path.join(self.root, self.name(number))  # noqa: PTH118 - Path is slow here

    def names(self) -> Iterator[str]:
        """Yield each file's path, relative to the root where it lies below it."""
        return map(self.name, range(len(self)))

    def digest(self) -> bytes:
        """Return a hash of the paths and their order."""
        found = blake2b(bytes(self.root), digest_size=16)
        found.update(self._ends.tobytes())
        found.update(self._text)
        return found.digest()
