"""The logits of all images of a split, gathered batch by batch."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from tlab.core.processes import from_all_processes

Arrays: TypeAlias = tuple[np.ndarray, ...]  # logits, labels, numbers in the split


class CollectedLogits:
    """Logits and labels of the images of one pass, for what is computed from all of them together.

    Args:
        every: Of how many images, by their number in the split, one is kept; 1: all. Splits lie class by class, so
            these are of all classes.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, logits: Tensor, labels: Tensor, index: Tensor) -> None:
        """Add a batch: logits `B K` (float32), labels `B` and numbers in the split `B`, kept where they are."""
        part = (logits.detach(), labels, index)
        if self.every > 1:
            kept = index % self.every == 0
            part = (part[0][kept], labels[kept], index[kept])
        self._parts.append(part)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return logits `N K` (float32) and labels `N` (int64), in the order of the split."""
        return _in_order([self._joined()])

    def arrays_of_all_processes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the same of all processes, each of which has to call this."""
        return _in_order(from_all_processes(self._joined()))

    def _joined(self) -> Arrays:
        return tuple(torch.cat(each).cpu().numpy() for each in zip(*self._parts, strict=True))


def _in_order(parts: Sequence[Arrays]) -> tuple[np.ndarray, np.ndarray]:
    logits, labels, index = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.argsort(index, kind="stable")
    return logits[order], labels[order]
