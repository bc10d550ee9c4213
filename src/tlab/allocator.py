"""What the C library does with memory that is free again."""

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_* of glibc's malloc.h
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Let glibc keep up to 2 GB of freed memory for the next step, in place of giving it back at once.

    A training step on a CPU takes and frees the same few hundred MB of activations again and again. By itself
    glibc hands tensors of more than 128 KB back to the system, which then clears every page anew. Without that
    ResNet-18's training step at 224 px was 1.14 times as fast (`benchmarks/allocator.py`; 0.91 to 1.33 on a
    busy machine). Does nothing on other C libraries, or where the environment has settings of its own.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None or any(name in os.environ for name in SETTINGS):
        return
    mallopt(MMAP_THRESHOLD, 2**25)  # the most it takes
    mallopt(TRIM_THRESHOLD, 2**31 - 1)
