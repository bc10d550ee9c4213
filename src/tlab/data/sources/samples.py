"""Image files with their labels, of which a million take little memory."""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np


class Sample(NamedTuple):
    """One image file: its absolute path, and its label as an index into the classes."""

    file: str  # a `Path` for each of very many files takes seconds and hundreds of megabytes
    label: int

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.file)


class Samples(Sequence[Sample]):
    """The samples of a split, each made when it is asked for: the paths lie in one buffer, without an object each.

    Args:
        samples: The samples, in order.
    """

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self._paths, self._ends, self._labels = bytearray(), array("q", [0]), array("q")
        for file, label in samples:
            self._paths += os.fsencode(file)
            self._ends.append(len(self._paths))
            self._labels.append(label)

    @property
    def labels(self) -> np.ndarray:
        """The label of each sample: N, int64; read-only."""
        labels = np.frombuffer(self._labels, np.int64)
        labels.flags.writeable = False
        return labels

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, place: int) -> Sample: ...
    @overload
    def __getitem__(self, place: slice) -> "Samples": ...
    def __getitem__(self, place: int | slice) -> "Sample | Samples":
        if isinstance(place, slice):
            return Samples(self[number] for number in range(*place.indices(len(self))))
        number = range(len(self))[place]
        path = self._paths[self._ends[number] : self._ends[number + 1]]
        return Sample(os.fsdecode(bytes(path)), self._labels[number])

    def __iter__(self) -> Iterator[Sample]:
        start = 0
        for end, label in zip(self._ends[1:], self._labels, strict=True):
            yield Sample(os.fsdecode(bytes(self._paths[start:end])), label)
            start = end

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Samples):
            return (self._paths, self._ends, self._labels) == (other._paths, other._ends, other._labels)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        return f"Samples({list(self)!r})"
