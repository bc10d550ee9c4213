"""Exceptions for mistakes that the user can correct, what a machine refuses, and the exit codes of a command."""

import errno
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

FAILED = 1  # the command, or some runs of a sweep, failed
MISTAKEN = 2  # the command was refused before anything ran
INTERRUPTED = 130  # Ctrl-C


class UserError(Exception):
    """A mistake in the configuration, the data or the command line.

    Its message is one sentence that names the key or the file at fault and the remedy. The command line
    prints it without a traceback and exits with code 2 (`debug=true` shows the traceback).
    """


class RunFailed(UserError):  # noqa: N818 - named for what there is
    """A run or command that had begun could not be carried out; the command exits with code 1."""


class RunDirectoryConflict(UserError):  # noqa: N818 - named for what there is
    """A run directory belongs to another run, which must not be overwritten."""


class RunDirectoryLocked(RunDirectoryConflict):
    """A run directory is in use by another process."""


def _numbers(*names: str) -> set[int]:
    """Return the error numbers of these names, as far as the system has them."""
    return {getattr(errno, name) for name in names if hasattr(errno, name)}


FULL = _numbers("ENOSPC", "EDQUOT", "EFBIG")
TOO_MANY_FILES = _numbers("EMFILE", "ENFILE")
REFUSED = _numbers("EROFS", "EACCES", "EPERM", "EIO", "ESTALE", "ENOTCONN")
# What torch says where a process of a loader was killed, and where batches find no place in shared memory
KILLED_WORKER = re.compile(r"DataLoader worker \(pid.*\) (is killed by signal: [\w ]+|exited unexpectedly)")
SHARED = re.compile(r"</?torch_\w+>")


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
        return f"a process that loads images ended early ({how}): {_memory_advice()}"
    if number in TOO_MANY_FILES or "Too many open files" in text or "items of ancdata" in text:
        return f"too many files are open at once; give data.num_workers=0, or raise the limit{_more_files()}"
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


def _memory_advice() -> str:
    shared, ways = "", "give data.num_workers=0"
    with suppress(OSError):
        shared = f", or the {shutil.disk_usage('/dev/shm').total / 1e6:.0f} MB of /dev/shm"
        ways += ", or start a container with more of it (docker run --shm-size=2g)"
    return f"memory ran out{shared}; {ways}"


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
