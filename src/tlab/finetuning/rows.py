"""Rows of features in array files: written once, as a whole, and read by memory map."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from tlab.cache import write_text

SAVE_EVERY = 5.0  # seconds between notes of how far a file has come


def fill(path: Path, count: int, rows: Callable[[int], Iterable[np.ndarray]]) -> None:
    """Write an array file that appears at `path` when it is whole.

    What a killed process had written is kept beside it, and taken up. Only one process may do this at a time (see
    `stores.open_locked`).

    Args:
        path: The `.npy` file.
        count: Number of rows.
        rows: first row -> blocks of rows from there on.

    Raises:
        RuntimeError: `rows` gave another number of rows.
    """
    part, note = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.rows")
    array, done = _begun(part, note, count)
    saved = time.monotonic()
    for block in rows(done):
        if array is None:
            note.unlink(missing_ok=True)
            array = open_memmap(part, mode="w+", dtype=block.dtype, shape=(count, *block.shape[1:]))
        array[done : done + len(block)] = block
        done += len(block)
        if time.monotonic() - saved > SAVE_EVERY:
            array.flush()
            write_text(note, str(done))
            saved = time.monotonic()
    if array is None or done != count:
        raise RuntimeError(f"{path} was to have {count} rows, {done} were computed")
    array.flush()
    os.replace(part, path)  # noqa: PTH105 - replaces on Windows too
    note.unlink(missing_ok=True)


def to_rows(x: Tensor, channels_last: bool) -> np.ndarray:
    """Return a batch as it is written: maps as `B H W C` if channels_last, bfloat16 as int16 of the same bits."""
    x = x.cpu()
    x = (x.movedim(1, -1) if channels_last and x.ndim == 4 else x).contiguous()
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()


def row_dtype(array: np.ndarray) -> torch.dtype:
    """Return the type of the batch that an array's rows were made of by `to_rows`."""
    return torch.bfloat16 if array.dtype == np.int16 else torch.from_numpy(np.empty(0, array.dtype)).dtype


def _begun(part: Path, note: Path, count: int) -> tuple[np.memmap | None, int]:
    """Return the array that a killed process was writing, and its first row that is missing; None and 0."""
    try:
        done, array = int(note.read_text(encoding="ascii")), open_memmap(part, mode="r+")
    except (OSError, ValueError):
        return None, 0
    return (array, done) if len(array) == count and 0 < done <= count else (None, 0)
