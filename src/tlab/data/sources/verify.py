"""Checks which files can be decoded before training starts, with a cache of the results."""

import json
import logging
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import PIL

from tlab.core.files import cache_dir, file_identity, write_text
from tlab.core.hardware import cpu_count
from tlab.core.text import counted, few
from tlab.data import progress_bar
from tlab.data.decode_options import DEFAULTS, MAX_MEGAPIXELS, MOSTLY_THERE, DecodeOptions, SampleRange

log = logging.getLogger(__name__)

F = TypeVar("F", str, Path)
T = TypeVar("T")

CHECK_SECONDS = 60.0  # for all files of a root, by default
EXAMINED_SHARE, GLANCED_SHARE = 0.5, 0.65  # of the seconds, after which files are glanced at, and passed over
WHOLE_SHARE = 0.9  # of the seconds, within which all files may be decoded
REMEMBERED = 8  # checks of one root that have passed over files: of splits and limits of their own
AHEAD = 128  # neighboring files queued for the threads at once
MAGIC = {  # first bytes of a file -> name of its format
    **{b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF8": "GIF", b"BM": "BMP"},
    **{b"II*\0": "TIFF", b"MM\0*": "TIFF"},
}
SAME_FORMAT = {"MPO": "JPEG"}  # many phones write a JPEG followed by a second image


@dataclass(frozen=True)
class Unreadable:
    """A file that cannot be decoded, and the reason."""

    path: Path
    reason: str


class FileCheck(NamedTuple):
    """The result of checking one file.

    Attributes:
        format: Name of the image format by content, "" if unreadable; of a file passed over that of most others.
        digest: Hash of the content, hexadecimal, "" if unreadable or not decoded.
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

    @property
    def is_decoded(self) -> bool:
        """Whether the file was decoded, or found to be unreadable; otherwise at most its first bytes are known."""
        return bool(self.digest or self.reason)

    @property
    def is_sound(self) -> bool:
        """Whether the file was decoded, and nothing in it is damaged."""
        return bool(self.digest) and not self.damage


class FileChecks(dict[F, FileCheck]):
    """Path -> `FileCheck`; any other path gives that of a file that was passed over, which needs no entry.

    Attributes:
        others: The `FileCheck` of all other files.
    """

    others = FileCheck()

    def __missing__(self, path: F) -> FileCheck:
        return self.others

    def is_sound(self, path: F) -> bool:
        """Tell whether a file was decoded, and nothing in it is damaged."""
        return self[path].is_sound

    def add(self, more: "FileChecks[F]") -> None:
        """Add what is known of the files of another root."""
        self.update(more)
        self.others = self.others if self.others.format else more.others


def check_files(
    root: Path,
    paths: Sequence[F],
    max_megapixels: float = MAX_MEGAPIXELS,
    seconds: float | None = CHECK_SECONDS,
) -> "FileChecks[F]":
    """Decode every file once; where they are too many, a sample of them.

    Results are kept in the cache directory, in one file per root, by absolute path, size and modification time, so
    that a second run only checks files that changed. Transient failures (permissions, a missing file) are not kept.

    The sample are as many files as the time allows, in a fixed random order of small groups of neighbors; of others
    the first bytes are read as far as the time allows. The same files are not tried again by a later check.

    Args:
        root: Root of the dataset, which names the cache file.
        paths: Absolute paths of the files, `Path` or text.
        max_megapixels: See `DecodeOptions`.
        seconds: What the check may take; None: whatever it takes to decode every file.

    Returns:
        Path as given -> `FileCheck`, in the order given.
    """
    start = time.monotonic()
    store = _Store(root, max_megapixels)
    verdicts: FileChecks[F] = FileChecks()
    glances: dict[F, FileCheck] = {}  # those of an odd format
    unknown: list[F] = []
    for path in paths:
        if (known := store.get(str(path))) is None:
            unknown.append(path)
        elif known.is_decoded:
            verdicts[path] = known
        else:
            glances[path] = known
    if unknown and store.has_passed_over(unknown, seconds):
        verdicts.update(glances)
        unknown = [path for path in unknown if str(path) in store.transient]
    else:
        unknown += glances
    if unknown:
        clock = _Clock(start, seconds)
        decoded: dict[F, FileCheck] = {}
        glanced: dict[str, list[F]] = defaultdict(list)  # without an object for each of very many
        for path, verdict in _worked_on(
            unknown, partial(_examine_or_glance, clock, max_megapixels), "Checking images", clock
        ):
            if verdict.is_decoded:
                decoded[path] = verdict
            else:
                glanced[verdict.format].append(path)
        taken = time.monotonic() - start
        if taken > progress_bar.SHOWN_AFTER and decoded:
            count, broken, rate = counted(decoded, "image"), len(unreadable(decoded)), len(decoded) / taken
            log.info("Checked %s in %.1f s (%.0f images/s): %d unreadable.", count, taken, rate, broken)
        formats = Counter(verdict.format for verdict in decoded.values() if verdict.format)
        formats.update({format_: len(files) for format_, files in glanced.items()})
        usual = max(formats, key=formats.__getitem__, default="")
        odd = {file: FileCheck(kind) for kind, files in glanced.items() if kind != usual for file in files}
        left = [path for path in unknown if path not in decoded and path not in odd]
        store.update(decoded | odd, left, usual, seconds)
        verdicts.update(decoded | odd)
        verdicts = FileChecks((path, verdicts[path]) for path in paths if path in verdicts)
    verdicts.others = store.passed_over
    return verdicts


def unreadable(verdicts: Mapping[F, FileCheck], truncated: bool = False) -> list[Unreadable]:
    """Return the files that cannot be decoded.

    Args:
        verdicts: Path -> `FileCheck`.
        truncated: Whether files that are there for the most part count as readable.
    """
    allowed = ("", MOSTLY_THERE) if truncated else ("",)
    return [Unreadable(Path(path), found.reason) for path, found in verdicts.items() if found.reason not in allowed]


def by_reason(broken: Sequence[Unreadable], named: Callable[[Path], str]) -> str:
    """Return a few files for each reason, the most frequent reason first: `a.jpg, b.jpg (empty file), c.jpg (...)`.

    Args:
        broken: The files.
        named: Function that names a file.
    """
    paths: dict[str, list[Path]] = {}
    for item in broken:
        paths.setdefault(item.reason, []).append(item.path)
    found = sorted(paths.items(), key=lambda each: -len(each[1]))
    return few((f"{few(map(named, files))} ({reason})" for reason, files in found), most=8)


def examine(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> FileCheck:
    """Decode one file (JPEG at an eighth of the size, which finds the same faults) and hash its content."""
    # here, because it imports torch, which `read_files` does not need
    from tlab.data.decode import DecodeError, read_bytes

    try:
        return examine_content(path, read_bytes(path), max_megapixels)
    except DecodeError as error:
        return FileCheck(reason=error.reason)


def examine_content(path: Path, content: bytes, max_megapixels: float = MAX_MEGAPIXELS) -> FileCheck:
    """Do what `examine` does with the content of a file."""
    from tlab.data.decode import DecodeError, examine_bytes

    try:
        format_, samples, damage = examine_bytes(path, content, max_megapixels)
    except DecodeError as error:
        return FileCheck(reason=error.reason)
    reason = damage if damage == MOSTLY_THERE else ""
    return FileCheck(SAME_FORMAT.get(format_, format_), content_digest(content), reason, samples, damage)


def read_files(
    root: Path,
    paths: Sequence[str],
    options: DecodeOptions = DEFAULTS,
    seconds: float | None = CHECK_SECONDS,
) -> FileChecks[str]:
    """Return what is known of each file, and the hash of its content where nothing is; no image is decoded.

    Args:
        root: Root of the dataset, which names the cache file of the check.
        paths: Absolute paths of the files.
        options: Which files are readable.
        seconds: As in `check_files`.

    Returns:
        Path -> `FileCheck`, with a reason for files that cannot be read, or failed the check and have not changed
        since. As in a check, some may be passed over.
    """
    clock = _Clock(time.monotonic(), seconds)
    store = _Store(root, options.max_megapixels)
    found: FileChecks[str] = FileChecks()
    unknown = []
    for path in paths:
        if (known := store.get(path)) is None:
            unknown.append(path)
        else:
            found[path] = known._replace(reason="") if known.reason == MOSTLY_THERE and options.truncated else known
    if unknown and not store.has_passed_over(unknown, seconds):
        found.update(_worked_on(unknown, _read, "Reading images", clock))
    return found


def _read(path: str) -> FileCheck:
    try:
        return FileCheck(digest=content_digest(Path(path).read_bytes()))
    except OSError as error:
        return FileCheck(reason=str(error))


def content_digest(content: bytes) -> str:
    """Return the hash of a file's content, hexadecimal."""
    return blake2b(content, digest_size=16).hexdigest()


class _Clock:
    """Says when the time of a check is over.

    Args:
        start: Its beginning, by `time.monotonic`.
        seconds: What it may take; None: as long as it needs.

    Attributes:
        done: Share of the files that are done.
    """

    def __init__(self, start: float, seconds: float | None) -> None:
        self.start, self.seconds = start, seconds
        self.done = 0.0
        self._only_glances = False

    @property
    def spent(self) -> float:
        """Share of the time that is over."""
        return (time.monotonic() - self.start) / self.seconds if self.seconds is not None else 0.0

    def only_glances(self) -> bool:
        """Tell whether half of the time is over, and the rest will not do for decoding; from then on always."""
        self._only_glances |= self.spent > EXAMINED_SHARE and self.spent > WHOLE_SHARE * self.done
        return self._only_glances

    def is_over(self) -> bool:
        """Tell whether the files that are left must be passed over."""
        return self.spent > (GLANCED_SHARE if self._only_glances else WHOLE_SHARE)


def _examine_or_glance(clock: _Clock, max_megapixels: float, path: str | Path) -> FileCheck:
    if clock.only_glances() and (format_ := _format_of_first_bytes(path)):
        return FileCheck(format_)
    return examine(Path(path), max_megapixels)


def _format_of_first_bytes(path: str | Path) -> str:
    """Return the format that the first bytes of a file say, "" if they say none, or it cannot be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            first = os.read(descriptor, 16)
        finally:
            os.close(descriptor)
    except OSError:
        return ""
    if first.startswith(b"RIFF"):
        return "WEBP" if first[8:12] == b"WEBP" else ""
    return next((name for magic, name in MAGIC.items() if first.startswith(magic)), "")


def _worked_on(
    paths: Sequence[F], work: Callable[[F], T], description: str, clock: _Clock
) -> Iterator[tuple[F, T]]:
    """Yield files with what `work` finds in them, as many as there is time for, and show the progress.

    Threads take groups of neighbors on the disk; the groups are in a random order, so that those that come to
    their turn are a sample.
    """
    groups = [paths[start : start + AHEAD] for start in range(0, len(paths), AHEAD)]
    if clock.seconds is not None:
        random.Random(0).shuffle(groups)

    def found(pool: ThreadPoolExecutor) -> Iterator[tuple[F, T]]:
        count = 0
        for group in groups:
            if clock.is_over():
                return
            for file, result in zip(group, pool.map(work, group), strict=True):
                count += 1
                clock.done = count / len(paths)
                yield file, result

    with ThreadPoolExecutor(min(16, cpu_count())) as threads:
        yield from progress_bar.shown(found(threads), description, len(paths))


class _Store:
    """Results of earlier checks of one root, in a JSON file of columns, which loads quickly.

    Attributes:
        records: Path -> stamp of the file, and `FileCheck`; of files that were decoded, or have an odd format.
        passed_over_sets: Digest of the other files of a check that ended for its time, and that time, for each of
            the last few.
        usual_format: Format of most of their files.
        transient: Files that could not be opened, which every check tries again.
    """

    def __init__(self, root: Path, max_megapixels: float) -> None:
        limit = b"" if max_megapixels == MAX_MEGAPIXELS else f"\0{max_megapixels}".encode()
        name = blake2b(os.fsencode(root) + limit, digest_size=8).hexdigest()
        self.file = cache_dir() / "check" / f"{name}.json"
        # Results may differ with another Pillow, or once HEIC can be read
        self.version = f"7 pillow {PIL.__version__} HEIC {find_spec('pillow_heif') is not None}"
        self.records: dict[str, tuple] = {}
        self.passed_over_sets: list[tuple[str, float]] = []
        self.usual_format = ""
        self.transient: set[str] = set()
        with suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads(self.file.read_text(encoding="utf-8"))
            if stored["version"] == self.version:
                self.records = dict(zip(stored["files"], zip(*stored["columns"], strict=True), strict=True))
                self.passed_over_sets, self.usual_format, transient = stored.get("passed_over", ([], "", []))
                self.transient = set(transient)

    def get(self, path: str) -> FileCheck | None:
        record = self.records.get(path)
        with suppress(OSError):
            if record is not None and record[: -len(FileCheck._fields)] == file_identity(path):
                check = FileCheck(*record[-len(FileCheck._fields) :])
                return check._replace(samples=SampleRange(*check.samples)) if check.samples else check
        return None

    def has_passed_over(self, paths: Sequence[str | Path], seconds: float | None) -> bool:
        """Tell whether so long a check was about these files, and its time was over before they were decoded."""
        if seconds is None or not self.passed_over_sets:
            return False
        identities = _identities(path for path in paths if str(path) not in self.transient)
        return any(identities == other and seconds <= spent for other, spent in self.passed_over_sets)

    @property
    def passed_over(self) -> FileCheck:
        """What is known of such a file."""
        return FileCheck(self.usual_format)

    def update(
        self,
        verdicts: Mapping[Any, FileCheck],
        passed_over: Sequence[str | Path],
        usual_format: str,
        seconds: float | None,
    ) -> None:
        """Add results.

        Args:
            verdicts: Path -> result.
            passed_over: The other files that the check was about.
            usual_format: Format of most of all these files.
            seconds: What the check could take.
        """
        for path, verdict in verdicts.items():
            self.records.pop(str(path), None)
            self.transient.add(str(path))
            with suppress(OSError), open(path, "rb"):  # noqa: PTH123 - what cannot be opened was not checked
                self.records[str(path)] = (*file_identity(path), *verdict)
                self.transient.discard(str(path))
        if passed_over and seconds is not None:
            self.usual_format = usual_format
            self.passed_over_sets = [*self.passed_over_sets, (_identities(passed_over), seconds)][-REMEMBERED:]
        columns = list(zip(*self.records.values(), strict=True))
        stored = {
            "version": self.version,
            "passed_over": (self.passed_over_sets, self.usual_format, sorted(self.transient)),
            "files": list(self.records),
            "columns": columns,
        }
        try:
            write_text(self.file, json.dumps(stored))
        except OSError as error:
            log.warning("The check of the images cannot be kept in %s (%s): it will run again.", self.file, error)


def _identities(paths: Iterable[str | Path]) -> str:
    """Return a digest of files' paths, sizes, times and inodes, in whatever order they come."""
    digest = blake2b(digest_size=16)
    for path in sorted(map(str, paths)):
        with suppress(OSError):
            digest.update(f"{os.fsencode(path)!r} {file_identity(path)}\n".encode())
    return digest.hexdigest()
