"""Find the files that cannot be read, and those that look out of place, before any training starts."""

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

import PIL
from PIL import Image

from tlab.cache import cache_dir, write_text
from tlab.cores import cores
from tlab.data import progress
from tlab.data.decode import DecodeError, decode_bytes, read_bytes

log = logging.getLogger(__name__)

SAME_FORMAT = {"MPO": "JPEG"}  # what many phones write is a JPEG with a second picture behind it


@dataclass(frozen=True)
class Unreadable:
    """A file that cannot be decoded, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What the check found in one file.

    Attributes:
        format: name of the image format by content, "" if unreadable.
        digest: hash of the content, "" if unreadable.
        reason: why it is unreadable, "" if it is readable.
    """

    format: str = ""
    digest: str = ""
    reason: str = ""


def check_files(root: Path, paths: Sequence[Path]) -> dict[Path, Verdict]:
    """Decode every file once and say what was found, in the order given.

    Verdicts are kept in the cache directory, one file for each root, by absolute path, size and modification
    time, so that a second run only looks at what changed. What may mend itself (permissions, a missing file)
    is not kept.

    Args:
        root: the data set, which names the cache file.
        paths: absolute paths of the files.
    """
    store = _Store(root)
    known = {path: store.get(path) for path in paths}
    fresh = [path for path, verdict in known.items() if verdict is None]
    start = time.monotonic()
    verdicts = progress.shown(_examine_all(fresh), "Checking images", len(fresh))
    done = dict(zip(fresh, verdicts, strict=True))
    if fresh:
        _log_rate(done, time.monotonic() - start)
        store.update(done)
    return {path: verdict or done[path] for path, verdict in known.items()}


def unreadable(verdicts: dict[Path, Verdict]) -> list[Unreadable]:
    """Return the files that cannot be decoded."""
    return [Unreadable(path, verdict.reason) for path, verdict in verdicts.items() if verdict.reason]


def examine(path: Path) -> Verdict:
    """Decode one file (JPEG at an eighth of the size, which finds the same faults) and hash its content."""
    try:
        content = read_bytes(path)
        image = decode_bytes(path, content, draft=True)
    except DecodeError as error:
        return Verdict(reason=error.reason)
    kind = image.format or ""
    return Verdict(SAME_FORMAT.get(kind, kind), blake2b(content, digest_size=16).hexdigest())


def _examine_all(paths: Sequence[Path]) -> Iterator[Verdict]:
    with ThreadPoolExecutor(min(16, cores())) as pool:
        yield from pool.map(examine, paths)


def _log_rate(done: dict[Path, Verdict], seconds: float) -> None:
    if seconds > progress.PATIENCE:
        count, broken = len(done), len(unreadable(done))
        rate = count / seconds
        log.info("Checked %d images in %.1f s (%.0f images/s): %d unreadable.", count, seconds, rate, broken)


class _Store:
    """Verdicts of earlier checks of one root, in a JSON file."""

    def __init__(self, root: Path) -> None:
        name = blake2b(os.fsencode(root), digest_size=8).hexdigest()
        self.file = cache_dir() / "check" / f"{name}.json"
        # Another Pillow or another pixel limit may judge otherwise
        self.version = f"1 pillow {PIL.__version__} limit {Image.MAX_IMAGE_PIXELS}"
        self.records = self._read()

    def _read(self) -> dict[str, list]:
        try:
            stored = json.loads(self.file.read_text(encoding="utf-8"))
            return stored["files"] if stored["version"] == self.version else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def get(self, path: Path) -> Verdict | None:
        record = self.records.get(str(path))
        try:
            return Verdict(**record[2]) if record and record[:2] == _stamp(path) else None
        except (OSError, TypeError):
            return None

    def update(self, verdicts: dict[Path, Verdict]) -> None:
        for path, verdict in verdicts.items():
            try:
                with path.open("rb"):  # a file that cannot be opened has no verdict on its content
                    self.records[str(path)] = [*_stamp(path), asdict(verdict)]
            except OSError:
                self.records.pop(str(path), None)
        try:
            write_text(self.file, json.dumps({"version": self.version, "files": self.records}))
        except OSError as error:
            log.warning("The check of the images cannot be kept in %s (%s): it will run again.", self.file, error)


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
