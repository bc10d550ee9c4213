"""Atomic creation of folders."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from tlab.core.errors import UserError


def build_atomically(target: Path, build: Callable[[Path], None]) -> Path:
    """Return `target`; if it is missing, let `build` fill a temporary folder, and rename that.

    A crash leaves nothing at `target`. If several processes build at the same time, the first to finish wins.

    Raises:
        UserError: The folder cannot be written (permissions, a full disk).
    """
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as beside:
            fresh = Path(beside) / "folder"  # inside, since only this user can open a temporary folder
            fresh.mkdir()
            build(fresh)
            try:
                fresh.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{target} cannot be written ({reason}): make room there, or name another folder with TLAB_CACHE."
        ) from error
    return target
