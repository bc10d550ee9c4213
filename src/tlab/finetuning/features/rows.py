"""Rows of features in array files: written once, as a whole, and read by memory map."""

import math
import os
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib.format import dtype_to_descr, open_memmap, write_array_header_1_0
from torch import Tensor

from tlab.core.files import write_text

BFLOAT16_NAN = 0x7FC0  # as int16
SAVE_EVERY = 5.0  # seconds between records of a file's progress


def fill(path: Path, count: int, rows: Callable[[int], Iterable[np.ndarray]], alone: bool = True) -> None:
    """Write an array file that appears at `path` when it is whole.

    What a killed process had written is kept beside it and continued, where only one process at a time does this.

    Args:
        path: The `.npy` file.
        count: Number of rows.
        rows: Function of a row's number that returns blocks of rows from there on.
        alone: Whether no other process does the same now (see `tlab.core.eviction.open_locked`).

    Raises:
        RuntimeError: `rows` returned another number of rows.
        OSError: The disk is full, or fails; what was written is removed.
    """
    own = "" if alone else f".{secrets.token_hex(4)}"
    part, note = path.with_name(f".{path.name}{own}.part"), path.with_name(f".{path.name}{own}.rows")
    try:
        done, place = _begun(part, note, count)
        saved = time.monotonic()
        # As a file, not through a memory map: where the disk is full, writing to a map ends the process
        with part.open("r+b" if done else "w+b") as file:
            file.seek(place)
            for block in rows(done):
                if not done:
                    note.unlink(missing_ok=True)
                    shape = (count, *block.shape[1:])
                    layout = {"descr": dtype_to_descr(block.dtype), "fortran_order": False, "shape": shape}
                    write_array_header_1_0(file, layout)
                    file.truncate(file.tell() + math.prod(shape) * block.itemsize)  # as `_begun` expects it
                file.write(np.ascontiguousarray(block).data)
                done += len(block)
                if time.monotonic() - saved > SAVE_EVERY:
                    _flush(file)
                    write_text(note, str(done))
                    saved = time.monotonic()
            _flush(file)
        if not done or done != count:
            raise RuntimeError(f"{path} was to have {count} rows, {done} were computed")
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        note.unlink(missing_ok=True)
        raise
    note.unlink(missing_ok=True)


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def to_rows(x: Tensor, channels_last: bool) -> np.ndarray:
    """Return a batch as it is written: maps as `B H W C` if channels_last, bfloat16 as int16 of the same bits."""
    x = x.cpu()
    x = (x.movedim(1, -1) if channels_last and x.ndim == 4 else x).contiguous()
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()


def has_features(rows: np.ndarray) -> np.ndarray:
    """Tell which rows hold features: bool, one for each."""
    first = torch.tensor(rows.reshape(len(rows), -1)[:, 0]).view(row_dtype(rows))
    return ~first.isnan().numpy()


def without_features(rows: np.ndarray, are: np.ndarray) -> np.ndarray:
    """Return rows of which some are marked as without features, since their images could not be read.

    Args:
        rows: The rows, as `to_rows` makes them.
        are: Which ones: bool, one for each row.
    """
    if not are.any():
        return rows
    rows = rows.copy()
    rows[are] = BFLOAT16_NAN if rows.dtype == np.int16 else np.nan
    return rows


def row_dtype(array: np.ndarray) -> torch.dtype:
    """Return the type of the batch that an array's rows were made of by `to_rows`."""
    return torch.bfloat16 if array.dtype == np.int16 else torch.from_numpy(np.empty(0, array.dtype)).dtype


def _begun(part: Path, note: Path, count: int) -> tuple[int, int]:
    """Return how many rows a killed process had written, and the byte where the next one goes; else 0 and 0."""
    try:
        done, array = int(note.read_text(encoding="ascii")), open_memmap(part, mode="r")
    except (OSError, ValueError):
        return 0, 0
    if len(array) != count or not 0 < done <= count:
        return 0, 0
    return done, array.offset + done * array[0].nbytes
