"""Fast, ordered listing of the image files below a folder, and exclusion patterns."""

import glob
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from itertools import pairwise
from pathlib import Path

from PIL import Image

from tlab.config.overrides import exclude_argument
from tlab.core.errors import UserError
from tlab.core.text import as_text


@cache
def image_extensions() -> frozenset[str]:
    """Return the file extensions that Pillow can open, in lower case, with the dot."""
    by_name_only = {"BUFR", "GRIB", "HDF5", "MPEG"}  # Pillow identifies these but has no decoder
    readable = Image.registered_extensions().items()
    return frozenset(ext for ext, name in readable if name in Image.OPEN and name not in by_name_only)


def nfc(name: str) -> str:
    """Return `name` as text in Unicode's composed form, so that folders sort and split alike on every system."""
    return unicodedata.normalize("NFC", as_text(name))


class Exclude:
    """Glob patterns on POSIX paths relative to the root; `*` also matches `/`.

    Args:
        patterns: Patterns such as `["train/ants/imageNotFound.gif", "*.gif", "val/unsure"]`; one that
            matches a folder excludes everything below it.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        if isinstance(patterns, str):
            patterns = [patterns]
        self.patterns = [nfc(str(pattern)).removeprefix("./") for pattern in patterns]
        self.used: set[str] = set()
        folders = {pattern: re.sub(r"/\*{0,2}$", "", pattern) for pattern in self.patterns}
        self._folders = {pattern: (folder,) for pattern, folder in folders.items()}
        self._files = {pattern: (pattern, f"{folder}/*") for pattern, folder in folders.items()}
        # names that were meant where a pattern is in fact another one, or two: photo[1].gif, Pepper,_bell
        joined = (comma.join(pair) for pair in pairwise(self.patterns) for comma in (",", ", "))
        self._meant = dict.fromkeys([*(p for p in self.patterns if glob.escape(p) != p), *joined], False)

    def file(self, relative: str) -> bool:
        """Tell whether this file is excluded."""
        return self._match(self._files, relative)

    def folder(self, relative: str) -> bool:
        """Tell whether this folder is excluded with everything below it."""
        return self._match(self._folders, relative)

    def _match(self, globs: Mapping[str, tuple[str, ...]], relative: str) -> bool:
        name = nfc(relative)
        hits = [pattern for pattern, any_of in globs.items() if any(fnmatchcase(name, each) for each in any_of)]
        self.used.update(hits)
        if name in self._meant:
            self._meant[name] = True
        return bool(hits)

    def issues(self) -> list[str]:
        """Return one sentence for each pattern that matched nothing (usually a typo)."""
        sentences = []
        for pattern in self.patterns:
            if pattern not in self.used:
                meant = [name for name, there in self._meant.items() if there and pattern in name]
                way_out = f"; write {exclude_argument(meant)} for what is there" if meant else ""
                sentences.append(f"data.exclude: the pattern {pattern!r} matched no file{way_out}.")
        return sentences


def check_root(root: str | os.PathLike[str], key: str = "data.root") -> Path:
    """Return `root` as an absolute path, or raise a `UserError` if it is not a readable folder."""
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


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in `folder`, sorted, without hidden ones."""
    return in_order(_read_folder(str(folder))[0])


def image_files(folder: Path, relative: str = "", exclude: Exclude | None = None, deep: bool = True) -> list[str]:
    """Return the POSIX paths, relative to `folder`, of the image files in it, sorted.

    Args:
        folder: Folder to search.
        relative: Path of `folder` relative to the root, to which the patterns of `exclude` refer.
        exclude: Patterns of files to leave out.
        deep: Whether to search subfolders too.
    """
    found = _walk(str(folder), "", deep, frozenset())
    if exclude is not None and exclude.patterns:
        prefix = f"{relative}/" if relative else ""
        found = (name for name in found if not exclude.file(prefix + name))
    return in_order(list(found))


def in_order(names: Sequence[str]) -> list[str]:
    """Return names sorted by their composed Unicode form."""
    return sorted(names) if all(map(str.isascii, names)) else sorted(names, key=nfc)


def _walk(folder: str, prefix: str, deep: bool, above: frozenset[str]) -> Iterator[str]:
    folders, files = _read_folder(folder)
    for name in files:
        yield prefix + name
    if not deep or not folders:
        return
    above = above | {os.path.realpath(folder)}
    for name in folders:
        path = f"{folder}/{name}"
        # A link to a folder above would never end
        if not (os.path.islink(path) and os.path.realpath(path) in above):  # noqa: PTH114 - Path is slow here
            yield from _walk(path, f"{prefix}{name}/", deep, above)


def _read_folder(folder: str) -> tuple[list[str], list[str]]:
    """Return the names of the folders and of the image files in a folder, unsorted, without hidden ones."""
    extensions, folders, files = image_extensions(), [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(".") or name.lower() == "__macosx":
                    continue
                if entry.is_dir():
                    folders.append(name)
                elif os.path.splitext(name)[1].lower() in extensions:  # noqa: PTH122 - Path is slow here
                    files.append(name)
    except PermissionError:
        raise UserError(
            f"{folder} may not be read by this user: change its permissions, or leave it out with data.exclude."
        ) from None
    return folders, files
