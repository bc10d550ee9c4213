"""Find the image files below a folder: quickly, in a fixed order, without what the user left out."""

import fnmatch
import json
import os
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path

import PIL
from PIL import Image

from tlab.cache import cache_dir, write_text
from tlab.errors import UserError

NOT_DATA = {"__macosx"}
REMEMBERED = 5_000  # files from which on it pays to remember what the folders hold
SETTLED = 2 * 10**9  # nanoseconds after which another change of a folder surely gets another time


@cache
def image_extensions() -> frozenset[str]:
    """Return the file extensions that Pillow can open, lower case, with the dot."""
    by_name_only = {"BUFR", "GRIB", "HDF5", "MPEG"}  # Pillow identifies these but has no decoder
    readable = Image.registered_extensions().items()
    return frozenset(ext for ext, name in readable if name in Image.OPEN and name not in by_name_only)


def nfc(name: str) -> str:
    """Return `name` in Unicode's composed form, so that folders from macOS sort and split as elsewhere."""
    return unicodedata.normalize("NFC", name)


class Exclude:
    """Glob patterns on POSIX paths relative to the root; `*` also matches `/`.

    Args:
        patterns: for example `["train/ants/imageNotFound.gif", "*.gif", "val/unsure"]`; a pattern that
            matches a folder leaves out everything below it.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        if isinstance(patterns, str):
            patterns = [patterns]
        self.patterns = [nfc(str(pattern)).removeprefix("./") for pattern in patterns]
        self.used: set[str] = set()
        below = [(pattern, re.sub(r"(/\*{0,2})$", "", pattern) + "/*") for pattern in self.patterns]
        files = [(pattern, pattern) for pattern in self.patterns] + below
        folders = [(pattern, re.sub(r"(/\*{0,2})$", "", pattern)) for pattern in self.patterns]
        self._files = [(name, re.compile(fnmatch.translate(glob))) for name, glob in files]
        self._folders = [(name, re.compile(fnmatch.translate(glob))) for name, glob in folders if glob]

    def file(self, relative: str) -> bool:
        """Return whether this file is left out."""
        return self._match(self._files, relative)

    def folder(self, relative: str) -> bool:
        """Return whether this folder is left out with all that is below it."""
        return self._match(self._folders, relative)

    def _match(self, globs: list[tuple[str, re.Pattern[str]]], relative: str) -> bool:
        hits = [name for name, glob in globs if glob.match(nfc(relative))]
        self.used.update(hits)
        return bool(hits)

    def remarks(self) -> list[str]:
        """Return one sentence for each pattern that matched nothing (a slip of the pen, as a rule)."""
        unused = [pattern for pattern in self.patterns if pattern not in self.used]
        return [f"data.exclude: the pattern {pattern!r} matched no file." for pattern in unused]


def check_root(root: str | os.PathLike[str], key: str = "data.root") -> Path:
    """Return `root` as an absolute path, or raise a `UserError` when it is no folder that we can list."""
    if not str(root).strip():
        raise UserError(f"{key} is empty: give the folder that holds the images, {key}=DIR.")
    path = Path(os.path.abspath(Path(root).expanduser()))  # noqa: PTH100 - keeps symbolic links as typed
    if not path.exists():
        raise UserError(f"{key}={root} does not exist (looked in {path}): give a folder of images, {key}=DIR.")
    if not path.is_dir():
        raise UserError(f"{key}={root} is a file: give the folder that holds the images (unpack an archive first).")
    if not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"{key}={root} may not be read by this user: change its permissions.")
    return path


class Listings:
    """What the folders below a root hold, remembered from one command to the next.

    A folder is read again when its modification time has changed, as it does whenever a name in it comes, goes or
    changes. Few files are found in no time, and nothing is remembered of them.

    Args:
        root: names the cache file; None remembers nothing.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._file = None
        self._known: dict[str, list] = {}
        self._seen: dict[str, list] = {}
        if root is not None:
            name = blake2b(os.fsencode(root), digest_size=8).hexdigest()
            self._file = cache_dir() / "index" / f"{name}.json"
            # Another Pillow may open files with other extensions
            self._version = f"1 pillow {PIL.__version__}"
            self._known = self._read()

    def of(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the names of the folders and of the image files in a folder, without hidden ones, in no order."""
        try:
            stat = os.stat(folder)  # noqa: PTH116 - Path is slow here
            stamp = [stat.st_mtime_ns, stat.st_ino]
            entry = self._known.get(folder)
            if entry is None or entry[0] != stamp:
                # Two changes within one tick of the clock have one time, so a fresh folder is not to be trusted
                fresh = time.time_ns() - stat.st_mtime_ns < SETTLED
                entry = [None if fresh else stamp, *_read_folder(folder)]
        except PermissionError:
            raise UserError(
                f"{folder} may not be read by this user: change its permissions, or leave it out with data.exclude."
            ) from None
        self._seen[folder] = entry
        return entry[1], entry[2]

    def keep(self) -> None:
        """Remember what was seen."""
        many = sum(len(files) for _, _, files in self._seen.values()) >= REMEMBERED
        if self._file is None or not many or self._seen == self._known:
            return
        with suppress(OSError):  # without a cache the folders are read again next time
            write_text(self._file, json.dumps({"version": self._version, "folders": self._seen}))

    def _read(self) -> dict[str, list]:
        assert self._file is not None
        try:
            stored = json.loads(self._file.read_text(encoding="utf-8"))
            folders = stored["folders"] if stored["version"] == self._version else {}
            return {folder: [stamp, below, files] for folder, (stamp, below, files) in folders.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}


def subfolders(folder: Path, listings: Listings | None = None) -> list[str]:
    """Return the names of the folders in `folder`, sorted, without hidden ones."""
    return in_order((listings or Listings()).of(str(folder))[0])


def image_files(
    folder: Path,
    relative: str = "",
    exclude: Exclude | None = None,
    deep: bool = True,
    listings: Listings | None = None,
) -> list[str]:
    """Return the POSIX paths, relative to `folder`, of the image files in it, sorted.

    Args:
        folder: where to look.
        relative: path of `folder` below the root, which the patterns of `exclude` start from.
        exclude: what to leave out.
        deep: whether to look below `folder`'s own files too.
        listings: remembers what the folders hold.
    """
    found = _walk(str(folder), "", deep, frozenset(), listings or Listings())
    if exclude is not None and exclude.patterns:
        prefix = f"{relative}/" if relative else ""
        found = (name for name in found if not exclude.file(prefix + name))
    return in_order(list(found))


def in_order(names: Sequence[str]) -> list[str]:
    """Return names sorted by their composed form."""
    return sorted(names) if all(map(str.isascii, names)) else sorted(names, key=nfc)


def _walk(folder: str, prefix: str, deep: bool, above: frozenset[str], listings: Listings) -> Iterator[str]:
    folders, files = listings.of(folder)
    for name in files:
        yield prefix + name
    if not deep or not folders:
        return
    above = above | {os.path.realpath(folder)}
    for name in folders:
        path = f"{folder}/{name}"
        # A link back to a folder above would never end.
        if not (os.path.islink(path) and os.path.realpath(path) in above):  # noqa: PTH114 - Path is slow here
            yield from _walk(path, f"{prefix}{name}/", deep, above, listings)


def _read_folder(folder: str) -> tuple[list[str], list[str]]:
    extensions, folders, files = image_extensions(), [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if _hidden(name):
                continue
            if entry.is_dir():
                folders.append(name)
            elif os.path.splitext(name)[1].lower() in extensions:  # noqa: PTH122 - Path is slow here
                files.append(name)
    return folders, files


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in NOT_DATA
