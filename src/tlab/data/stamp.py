"""Whether a file is still what it was, without reading it."""

import os


def stamp(file: str | os.PathLike[str], name: str | None = None) -> bytes:
    """Return a file's name, size and modification time, for a digest that changes with its content.

    Args:
        file: The file.
        name: What it is called in the digest; None: its path.

    Raises:
        OSError: The file is not there.
    """
    stat = os.stat(file)  # noqa: PTH116 - Path is slow here
    return os.fsencode(file if name is None else name) + f"\0{stat.st_size}\0{stat.st_mtime_ns}".encode()
