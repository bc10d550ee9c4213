"""Checks which files can be decoded before training starts, with a cache of the results."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

import PIL

from tlab.core.files import cache_dir, file_identity, write_text
from tlab.core.hardware import cpu_count
from tlab.core.text import few
from tlab.data import progress_bar
from tlab.data.decode_options import DEFAULTS, MAX_MEGAPIXELS, MOSTLY_THERE, DecodeOptions, SampleRange

log = logging.getLogger(__name__)

F = TypeVar("F", str, Path)
T = TypeVar("T")

AHEAD = 1_000  # files queued for the threads at once; each takes a kilobyte
SAME_FORMAT = {"MPO": "JPEG"}  # many phones write a JPEG followed by a second image


@dataclass(frozen=True)
class Unreadable:
    """A file that cannot be decoded, and the reason."""

    path: Path
    reason: str


class FileCheck(NamedTuple):
    """The result of checking one file.

    Attributes:
        format: Name of the image format by content, "" if unreadable.
        digest: Hash of the content, hexadecimal, "" if unreadable.
        reason: Why it is unreadable, "" if it is readable; of a file that is cut short, but can be read for the
            most part, `MOSTLY_THERE`.
        samples: Range of its samples, if they have more than 8 bits.
        damage: What is damaged in a file that can be read all the same: "", `MOSTLY_THERE` or `EXTRA_BYTES`.
    """

    format: str = ""
    digest: str = ""
    reason: str = ""
    samples: SampleRange | None = None
    damage: str = ""


def check_files(root: Path, paths: Sequence[F], max_megapixels: float = MAX_MEGAPIXELS) -> dict[F, FileCheck]:
    """Decode every file once.

    Results are kept in the cache directory, in one file per root, by absolute path, size and modification time, so
    that a second run only checks files that changed. Transient failures (permissions, a missing file) are not kept.

    Args:
        root: Root of the dataset, which names the cache file.
        paths: Absolute paths of the files, `Path` or text.
        max_megapixels: See `DecodeOptions`.

    Returns:
        Path as given -> `FileCheck`, in the order given.
    """
    store = _Store(root, max_megapixels)
    known = {path: store.get(str(path)) for path in paths}
    start = time.monotonic()
    done = _work_on_unknown(known, lambda path: examine(Path(path), max_megapixels), "Checking images")
    seconds = time.monotonic() - start
    if done and seconds > progress_bar.SHOWN_AFTER:
        count, broken = len(done), len(unreadable(done))
        rate = count / seconds
        log.info("Checked %d images in %.1f s (%.0f images/s): %d unreadable.", count, seconds, rate, broken)
    if done:
        store.update({str(path): verdict for path, verdict in done.items()})
    return {path: verdict or done[path] for path, verdict in known.items()}


def unreadable(verdicts: Mapping[F, FileCheck], truncated: bool = False) -> list[Unreadable]:
    """Return the files that cannot be decoded.

    Args:
        verdicts: Path -> `FileCheck`.
        truncated: Whether files that are there for the most part count as readable.
    """
    allowed = ("", MOSTLY_THERE) if truncated else ("",)
    return [Unreadable(Path(path), found.reason) for path, found in verdicts.items() if found.reason not in allowed]


def by_reason(broken: Sequence[Unreadable], named: Callable[[Path], str], most: int = 3) -> str:
    """Return a few files for each reason, the most frequent reason first: `a.jpg, b.jpg (empty file), c.jpg (...)`.

    Args:
        broken: The files.
        named: Function that names a file.
        most: Largest number of files of one reason.
    """
    paths: dict[str, list[Path]] = {}
    for item in broken:
        paths.setdefault(item.reason, []).append(item.path)
    found = sorted(paths.items(), key=lambda each: -len(each[1]))
    return few((f"{few(map(named, files), most)} ({reason})" for reason, files in found), most=8)


def examine(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> FileCheck:
    """Decode one file (JPEG at an eighth of the size, which finds the same faults) and hash its content."""
    # here, because it imports torch, which `digests` does not need
    from tlab.data.decode import DecodeError, examine_bytes, read_bytes

    try:
        content = read_bytes(path)
        format_, samples, damage = examine_bytes(path, content, max_megapixels)
    except DecodeError as error:
        return FileCheck(reason=error.reason)
    reason = damage if damage == MOSTLY_THERE else ""
    return FileCheck(SAME_FORMAT.get(format_, format_), _digest(content), reason, samples, damage)


def digests(root: Path, paths: Sequence[str], options: DecodeOptions = DEFAULTS) -> dict[str, str]:
    """Return the hash of each file's content, as in its `FileCheck`, without decoding images.

    Args:
        root: Root of the dataset, which names the cache file of the check.
        paths: Absolute paths of the files.
        options: Which files are readable.

    Returns:
        Path -> hash; "" if the file cannot be read, or failed the check and has not changed since.
    """
    store = _Store(root, options.max_megapixels)
    known = {path: store.get(path) for path in paths}
    done = _work_on_unknown(known, _digest_of, "Reading images")
    checked = {path: verdict for path, verdict in known.items() if verdict is not None}
    broken = {str(item.path) for item in unreadable(checked, options.truncated)}
    found = {path: verdict.digest for path, verdict in checked.items()} | done
    return {path: "" if path in broken else found[path] for path in paths}


def _digest_of(path: str) -> str:
    try:
        return _digest(Path(path).read_bytes())
    except OSError:
        return ""


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def _work_on_unknown(known: Mapping[F, FileCheck | None], work: Callable[[F], T], description: str) -> dict[F, T]:
    """Return what `work` finds in each file of which nothing is known, and show the progress."""
    fresh = [path for path, verdict in known.items() if verdict is None]
    with ThreadPoolExecutor(min(16, cpu_count())) as pool:
        groups = (pool.map(work, fresh[start : start + AHEAD]) for start in range(0, len(fresh), AHEAD))
        found = progress_bar.shown(chain.from_iterable(groups), description, len(fresh))
        return dict(zip(fresh, found, strict=True))


class _Store:
    """Results of earlier checks of one root, in a JSON file of columns, which loads quickly."""

    def __init__(self, root: Path, max_megapixels: float) -> None:
        limit = b"" if max_megapixels == MAX_MEGAPIXELS else f"\0{max_megapixels}".encode()
        name = blake2b(os.fsencode(root) + limit, digest_size=8).hexdigest()
        self.file = cache_dir() / "check" / f"{name}.json"
        # Results may differ with another Pillow, or once HEIC can be read
        self.version = f"6 pillow {PIL.__version__} HEIC {find_spec('pillow_heif') is not None}"
        self.records: dict[str, tuple] = {}  # path -> stamp of the file, and `FileCheck`
        with suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads(self.file.read_text(encoding="utf-8"))
            if stored["version"] == self.version:
                self.records = dict(zip(stored["files"], zip(*stored["columns"], strict=True), strict=True))

    def get(self, path: str) -> FileCheck | None:
        record = self.records.get(path)
        with suppress(OSError):
            if record is not None and record[: -len(FileCheck._fields)] == file_identity(path):
                check = FileCheck(*record[-len(FileCheck._fields) :])
                return check._replace(samples=SampleRange(*check.samples)) if check.samples else check
        return None

    def update(self, verdicts: dict[str, FileCheck]) -> None:
        for path, verdict in verdicts.items():
            self.records.pop(path, None)
            with suppress(OSError), open(path, "rb"):  # noqa: PTH123 - what cannot be opened was not checked
                self.records[path] = (*file_identity(path), *verdict)
        columns = list(zip(*self.records.values(), strict=True))
        stored = {"version": self.version, "files": list(self.records), "columns": columns}
        try:
            write_text(self.file, json.dumps(stored))
        except OSError as error:
            log.warning("The check of the images cannot be kept in %s (%s): it will run again.", self.file, error)
