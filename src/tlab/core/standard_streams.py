"""Standard output and error that may go away while a command works: a closed terminal, `| head`, a full disk."""

import errno
import io
import os
import sys
from pathlib import Path

GONE = {errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EBADF, errno.ENXIO}


class _Descriptor(io.FileIO):
    """A file descriptor that leads nowhere from the first write that its reader does not take."""

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        """Write `data`."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in GONE:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


def outlast_readers() -> None:
    """Let this process go on when nobody reads its standard output or error any more.

    Streams that something has replaced already, as a test does, stay as they are.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream, original = getattr(sys, name), getattr(sys, f"__{name}__")
        if stream is None:  # closed by the shell (`>&-`): else the next file opened would be taken for it
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - stays open
        elif stream is original and isinstance(stream, io.TextIOWrapper):
            stream.flush()
            lasting = io.TextIOWrapper(
                io.BufferedWriter(_Descriptor(number, "wb", closefd=False)),  # type: ignore[type-var]
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, lasting)
