"""What a machine refuses: memory, room on a disk, files. How it is known, and what to do."""

import errno
import os
import re
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import synchronize
from pathlib import Path

from tlab.core.errors import OutOfMemory


def _numbers(*names: str) -> set[int]:
    """Return the error numbers of these names, as far as the system has them."""
    return {getattr(errno, name) for name in names if hasattr(errno, name)}


FULL = _numbers("ENOSPC", "EDQUOT", "EFBIG")
TOO_MANY_FILES = _numbers("EMFILE", "ENFILE")
REFUSED = _numbers("EROFS", "EACCES", "EPERM", "EIO", "ESTALE", "ENOTCONN", "ENAMETOOLONG", "ELOOP")
# What torch says where a process of a loader was killed, and where batches find no place in shared memory
KILLED_WORKER = re.compile(r"DataLoader worker \(pid.*\) (is killed by signal: [\w ]+|exited unexpectedly)")
SHARED = re.compile(r"</?torch_\w+>")
# What torch says of memory (CUDA, cuDNN and cuBLAS, MPS, the CPU's allocator), also as another process has told it
MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|MemoryError|ALLOC_FAILED|can't allocate memory|not enough memory"
    r"|cannot allocate memory|unable to allocate",
    re.IGNORECASE,
)


def machine_failure(error: BaseException) -> str | None:
    """Return a sentence on what the machine did not allow, such as writing to a full disk; None for other errors.

    What the error's notes say (`add_note`) is part of it.
    """
    text = str(error)
    if "database or disk is full" in text:
        return f"a database cannot be written, its disk is full ({text.splitlines()[0]}); make room there"
    if not isinstance(error, OSError | RuntimeError):
        return None
    if "No usable temporary directory" in text:
        return "no temporary directory can be written; make room in /tmp, or name another one with TMPDIR=DIR"
    number, file = (error.errno, error.filename) if isinstance(error, OSError) else (None, None)
    if killed := KILLED_WORKER.search(text):
        how = " ".join(killed[1].split())
        crashed = "signal" in how and not re.search("Killed|Bus error", how)
        advice = "give data.num_workers=0 to see where it crashes" if crashed else _memory_advice()
        return f"a process that loads images ended early ({how}): {advice}"
    if number in TOO_MANY_FILES or "Too many open files" in text or "items of ancdata" in text:
        return f"too many files are open at once; give data.num_workers=0, or raise the limit{_more_files()}"
    if isinstance(error, OSError) and _of_a_lock(error):
        return f"processes that load images cannot share memory ({error.strerror}): {_memory_advice()}"
    if SHARED.search(text) and isinstance(error, RuntimeError):
        return f"batches find no place in the shared memory: {_memory_advice()}"
    if number in FULL:
        notes = [*getattr(error, "__notes__", ()), *_free(file)]
        told = f" ({', '.join(notes)})" if notes else ""
        why = "its disk is full" if number != getattr(errno, "EDQUOT", None) else "the quota on its disk is used up"
        return f"{file or 'a file'} cannot be written, {why}{told}; make room there"
    if number is not None and number in REFUSED and file is not None:
        return f"{file} cannot be used ({os.strerror(number)}); mend that, or name another place"
    return None


def _of_a_lock(error: OSError) -> bool:
    """Tell whether a lock between processes could not be made, which lies in /dev/shm; the system names no file."""
    return any(frame.filename == synchronize.__file__ for frame in traceback.extract_tb(error.__traceback__))


def _memory_advice() -> str:
    shared, ways = "", "give data.num_workers=0"
    with suppress(OSError):
        shared = f", or the {shutil.disk_usage('/dev/shm').total / 1e6:.0f} MB of /dev/shm"
        ways += ", or start a container with more of it (docker run --shm-size=2g)"
    return f"memory may have run out{shared}; {ways}"


def _free(file: object) -> list[str]:
    with suppress(OSError, TypeError):
        folder = Path(os.fsdecode(file)).parent  # type: ignore[arg-type]
        return [f"{shutil.disk_usage(folder).free / 1e6:.1f} MB are free"]
    return []


def _more_files() -> str:
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f" of {soft} (ulimit -n {'unlimited' if hard == resource.RLIM_INFINITY else hard})"
    return ""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Tell whether memory ran out, of a device or of this machine, in this error or in one that it came from."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        kind = type(error).__name__  # torch's and other processes' errors are known by name, without importing them
        can_be = isinstance(error, RuntimeError | OSError) or kind == "ProcessError"
        if can_be and MEMORY.search(f"{kind}: {error}") and "shared memory" not in str(error):
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
        OutOfMemory: Memory ran out.
    """
    way_out = f"batch_size={smaller_batch(size)}" if size > 1 else "accelerator=cpu"
    with explaining_memory(lambda: f"memory ran out with batch_size={size}; give {way_out}"):
        yield


@contextmanager
def explaining_memory(sentence: Callable[[], str]) -> Iterator[None]:
    """Turn memory that runs out inside the block into one sentence.

    Args:
        sentence: What to say, made only then.

    Raises:
        OutOfMemory: Memory ran out.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(sentence()) from error
