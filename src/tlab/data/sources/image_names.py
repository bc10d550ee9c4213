"""Finds the image files that a table means by the names in its rows."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from tlab.data.sources.label_table import as_seen
from tlab.data.sources.scan import image_extensions, nfc

SPELLINGS = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif"}
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^/?#]*")  # scheme and server of a URL
CONVERTED = {".dcm", ".dicom"}  # extensions of files that are no images here, but are made into images


class Match(NamedTuple):
    """The files that fit a name best.

    Attributes:
        files: POSIX paths relative to the folder; several if they fit equally well.
        missed: Number of the name's leading folders that are not in the path of the file.
        other_extension: Whether the name has the extension of another format than the file.
    """

    files: list[str]
    missed: int = 0
    other_extension: bool = False


class ImageNames:
    """The image files below a folder, by all names that a table may use for them.

    A name is a path relative to the folder. Where there is no such file, the last part of the name decides, in any
    case and with any extension or none; of several such files it is the one whose folders agree with the most of
    the name's, counted from the last (absolute paths and paths from another machine have folders in front).

    Args:
        folder: Absolute path of the folder.
        files: POSIX paths of the images, relative to the folder.
        extension: Extension of the file meant by a name without one; None: any.
    """

    def __init__(self, folder: Path, files: Sequence[str], extension: str | None = None) -> None:
        self.folder, self.files = folder, files
        self._base = [_fold(part) for part in reversed(folder.parts)]
        self._extension = f".{extension.lstrip('.')}".lower() if extension else None
        self._by_path: dict[str, list[str]] = defaultdict(list)  # with and without extension
        for file in files:
            for name in {nfc(file), nfc(_split(file)[0])}:
                self._by_path[name].append(file)

    def match(self, name: str) -> Match:
        """Return the files that a name fits best, none if there is none with its last part."""
        for path in (nfc(name), _posix(name)):
            if files := self._by_path.get(path):
                exact = [file for file in files if nfc(file) == path]
                if exact or (files := self._with_extension(files)):
                    return Match(exact or files)
        *parents, last = _parts(name) or [""]
        stem, extension = _split(last)
        known = extension.lower() in image_extensions() | CONVERTED
        found = self._by_last.get(_fold(last), []) + (self._by_last.get(_fold(stem), []) if known else [])
        if not (found := self._with_extension([*dict.fromkeys(found)])):
            return Match([])
        wanted = [_fold(part) for part in reversed(parents)]
        fits = [
            (self._agreement(wanted, file), _likeness(last, extension if known else "", file)) for file in found
        ]
        best = max(fits)
        files = [file for file, fit in zip(found, fits, strict=True) if fit == best]
        return Match(files, len(wanted) - best[0], best[1] == 0)

    def match_all(self, names: Iterable[str]) -> dict[str, Match]:
        """Return the match of each name for which there is one, with what the names say of each other.

        Folders that are in some names but not on the disk are passed over in all of them or in none: if `train/1`
        is found in a folder train, then `test/1` is not that file. Nor can names of different images be one file.
        """
        matches = {name: match for name in dict.fromkeys(names) if (match := self.match(name)).files}
        if any(match.missed for match in matches.values()):
            for absolute in (True, False):
                _drop_strays(matches, [name for name in matches if is_absolute(name) == absolute])
        claims: dict[str, list[str]] = defaultdict(list)
        for name, match in matches.items():
            claims[match.files[0]].append(name)
        for claimants in claims.values():
            if len(claimants) > 1:
                _settle(matches, claimants)
        return matches

    @cached_property
    def _by_last(self) -> dict[str, list[str]]:
        """Return the files by the last part of their paths, with and without extension."""
        found: dict[str, list[str]] = defaultdict(list)
        for file in self.files:
            last = file.rpartition("/")[2]
            for key in {_fold(last), _fold(_split(last)[0])}:
                found[key].append(file)
        return found

    def _with_extension(self, files: list[str]) -> list[str]:
        return [file for file in files if self._extension in (None, _split(file)[1].lower())]

    def _agreement(self, wanted: Sequence[str], file: str) -> int:
        """Return how many folders of a name, from its last one, are those of a file."""
        if not wanted:
            return 0
        parents = [*map(_fold, reversed(file.split("/")[:-1])), *self._base]
        pairs = zip(wanted, parents, strict=False)
        return next((k for k, (one, other) in enumerate(pairs) if one != other), min(len(wanted), len(parents)))


def is_absolute(name: str) -> bool:
    """Tell whether a name is an absolute path, on this system or on Windows."""
    return re.match(r"[A-Za-z]:[\\/]|[\\/]", name) is not None


def _drop_strays(matches: dict[str, Match], names: Sequence[str]) -> None:
    """Drop the matches of names of which more folders are missed than of others, beyond those that all share."""
    deep = {name: parts for name in names if (parts := _parts(name)[:-1])}
    levels = [len({*parts}) for parts in zip(*deep.values(), strict=False)]
    common = next((k for k, folders in enumerate(levels) if folders > 1), len(levels))
    missed = {name: max(matches[name].missed - common, 0) for name in deep if len(deep[name]) > common}
    least = min(missed.values(), default=0)
    for name, number in missed.items():
        if number > least:
            del matches[name]


def _settle(matches: dict[str, Match], claimants: Sequence[str]) -> None:
    """Keep those of several names of one file that fit it best; none, if they fit badly and are different."""
    fit = {name: matches[name][1:] for name in claimants}
    best = min(fit.values())
    images = {tuple(map(_fold, _parts(_split(_posix(name))[0]))) for name in claimants if fit[name] == best}
    for name in claimants:
        if fit[name] != best or (any(best) and len(images) > 1):
            del matches[name]


def _likeness(last: str, extension: str, file: str) -> int:
    """Return how well the last part of a name is that of a file: 2 exactly, 1 in the same format, else 0."""
    own = file.rpartition("/")[2]
    if nfc(last) in (nfc(own), nfc(_split(own)[0])):
        return 2
    one, other = (SPELLINGS.get(each, each) for each in (extension.lower(), _split(own)[1].lower()))
    return int(one in ("", other))


def _posix(name: str) -> str:
    """Return a name with forward slashes; of an address on a network its path, without what it asks there."""
    if address := ADDRESS.match(name):
        name = unquote(re.split(r"[?#]", name[address.end() :], maxsplit=1)[0])
    return nfc(name).replace("\\", "/").removeprefix("./")


def _parts(name: str) -> list[str]:
    return [part for part in _posix(name).split("/") if part not in ("", ".")]


def _split(file: str) -> tuple[str, str]:
    return os.path.splitext(file)  # noqa: PTH122 - keeps the folders, and is fast


def _fold(part: str) -> str:
    return as_seen(part).casefold()
