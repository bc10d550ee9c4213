"""Standard output and error that take any text, and that may go away: a closed terminal, `| head`, a full disk."""

import codecs
import errno
import io
import os
import sys
from pathlib import Path

from tlab.core.text import as_text

GONE = {errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EBADF, errno.ENXIO}
LOOKALIKES = str.maketrans({"–": "-", "—": "-", "×": "x", "…": "...", "±": "+-", "≤": "<=", "·": "-", "•": "-"})
REPLACING = (
    "tlab"  # the error handler registered below, for `open(errors=...)`; conf/hydra/job_logging names it too
)


def _replaced(error: UnicodeError) -> tuple[bytes, int]:
    """Return what stands for characters that an encoding lacks (see `codecs.register_error`)."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = as_text(error.object[error.start : error.end]).translate(LOOKALIKES)
    return lacking.encode(error.encoding, "backslashreplace"), error.end


codecs.register_error(REPLACING, _replaced)


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


def guard_streams() -> None:
    """Let this process print any text, and go on when nobody reads its standard output or error any more.

    What an encoding lacks is replaced. Streams that something has replaced already, as a test does, stay.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream, original = getattr(sys, name), getattr(sys, f"__{name}__")
        if stream is None:  # closed by the shell (`>&-`): else the next file opened would be taken for it
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8", errors=REPLACING))  # noqa: SIM115
        elif stream is original and isinstance(stream, io.TextIOWrapper):
            stream.flush()
            lasting = io.TextIOWrapper(
                io.BufferedWriter(_Descriptor(number, "wb", closefd=False)),  # type: ignore[type-var]
                encoding=stream.encoding,
                errors=REPLACING,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, lasting)
        elif hasattr(stream, "reconfigure"):  # which a notebook's has not
            stream.reconfigure(errors=REPLACING)
