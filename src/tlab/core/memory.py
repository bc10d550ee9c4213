"""Tells when memory has run out, and which smaller batch would need less."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tlab.core.errors import RunFailed

# What torch and its backends say (CUDA, cuDNN and cuBLAS, MPS, the CPU's allocator), and the error that another
# process has told by its text.
WORDS = re.compile(
    r"out of memory|OutOfMemoryError|MemoryError|ALLOC_FAILED|can't allocate memory|not enough memory"
    r"|cannot allocate memory|unable to allocate",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Tell whether memory ran out, of a device or of this machine, in this error or in one that it came from."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        kind = type(error).__name__  # torch's and other processes' errors are known by name, without importing them
        can_be = isinstance(error, RuntimeError | OSError) or kind == "ProcessError"
        if can_be and WORDS.search(f"{kind}: {error}") and "shared memory" not in str(error):
            return True
        error = error.__cause__
    return False


def smaller_batch(size: int) -> int:
    """Return the largest size up to half of `size` of which `size` is a multiple; 1 stays 1."""
    return next((part for part in range(size // 2, 0, -1) if size % part == 0), 1)


@contextmanager
def naming_batch_size(size: int) -> Iterator[None]:
    """Turn memory that runs out inside the block into one sentence that names `batch_size`.

    Raises:
        RunFailed: Memory ran out.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        way_out = f"batch_size={smaller_batch(size)}" if size > 1 else "accelerator=cpu"
        raise RunFailed(f"memory ran out with batch_size={size}; give {way_out}") from error
