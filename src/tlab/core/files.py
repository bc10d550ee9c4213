"""The cache directory, and atomic writing of files."""

import csv
import io
import os
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tlab.core.errors import UserError
from tlab.core.text import as_text


def cache_dir() -> Path:
    """Return the cache directory: `$TLAB_CACHE`, else `$XDG_CACHE_HOME/tlab`, else `~/.cache/tlab`.

    A user without a home has a temporary one. A relative `XDG_CACHE_HOME` is ignored (XDG Base Directory
    Specification, Basics).
    """
    if explicit := os.environ.get("TLAB_CACHE"):
        return Path(explicit).expanduser()
    everybodys = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if everybodys.is_absolute():
        return everybodys / "tlab"
    try:
        return Path.home() / ".cache" / "tlab"
    except RuntimeError:  # a container's user by number alone, without a home
        return Path(tempfile.gettempdir()) / f"tlab-{os.getuid()}"


def this_command() -> str:
    """Return an identifier of this command, the same in all processes that it starts on this machine."""
    return os.environ.setdefault("TLAB_THIS_COMMAND", f"{os.getpid()}.{time.time_ns()}")


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write to; on success it is renamed to `target` in one step.

    A crash inside the block leaves `target` as it was. A link stays one, and its file is written. A device or a
    pipe is written to itself.

    Raises:
        OSError: It cannot be written; its `filename` is `target` where the system names none.
    """
    if is_device_or_pipe(target):
        yield target
        return
    target = target.resolve() if target.is_symlink() else target  # /dev/stdout, led to a file, is a link to it
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # a write that fails names none
            error.filename, error.filename2 = str(target), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_device_or_pipe(path: Path) -> bool:
    """Tell whether something is there that is neither a file nor a folder, such as `/dev/null`."""
    return path.exists() and not path.is_file() and not path.is_dir()


def check_writable(folder: Path, way_out: str) -> None:
    """Make a folder, and see that a file can be written there, before long work.

    Raises:
        UserError: It cannot; the sentence ends with `way_out`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); {way_out}") from error


def write_text(target: Path, text: str) -> None:
    """Write `text` to `target` as UTF-8, atomically; undecodable bytes (of file names) are escaped as in JSON."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_csv(target: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV table with a header to `target` as UTF-8, atomically; a missing cell is empty.

    Names of files are written as `as_text` gives them.
    """
    text = _Rows()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_text(target, as_text(text.getvalue()))


def csv_line(cells: Iterable[Any]) -> str:
    """Return a line of such a table."""
    text = _Rows()
    csv.writer(text).writerow(cells)
    return as_text(text.getvalue())


class _Rows(io.StringIO):
    """Rows that end as Unix lines do; the writer quotes a carriage return only where it takes it for an end."""

    def write(self, row: str) -> int:
        return super().write(row.removesuffix("\r\n") + "\n")


def leave_memory(path: Path) -> None:
    """Drop a written file from the page cache.

    For large files that nobody reads soon: what is read often (images, features) stays cached, and the next file is
    written to memory that is at hand, which on a virtual machine takes less than half the time.
    """
    with suppress(OSError, AttributeError), path.open("rb") as file:  # macOS and Windows have no such call
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def file_signature(file: str | os.PathLike[str], name: str | None = None) -> bytes:
    """Return a file's name, size and modification time, for a digest that a copy elsewhere may share.

    Args:
        file: The file.
        name: Name to use in the signature; None: the path.

    Raises:
        OSError: The file does not exist.
    """
    stat = os.stat(file)  # noqa: PTH116 - Path is slow here
    return os.fsencode(file if name is None else name) + f"\0{stat.st_size}\0{stat.st_mtime_ns}".encode()


def identity_if_there(file: str | os.PathLike[str]) -> tuple[int, int, int, int] | None:
    """Return a file's `file_identity`; None if it is gone, or was never there, as behind a broken link."""
    try:
        return file_identity(file)
    except OSError:
        return None


def file_identity(file: str | os.PathLike[str]) -> tuple[int, int, int, int]:
    """Return what changes with a file's content, also where a copy keeps times or another folder takes its name.

    Raises:
        OSError: The file does not exist.
    """
    stat = os.stat(file)  # noqa: PTH116 - Path is slow here
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
