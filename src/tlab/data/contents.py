"""Which images a run has: by name, class, split and content, wherever they lie."""

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from tlab.core.errors import UserError
from tlab.core.files import write_csv
from tlab.data.sources.folder import ImageIndex
from tlab.data.sources.scan import nfc
from tlab.data.sources.verify import check_files, digests, unreadable


class Entry(NamedTuple):
    """One image, as a row of `data.csv`.

    Attributes:
        split: "train", "val" or "test".
        path: below the root of the data, with forward slashes; of a file elsewhere the absolute path. Bytes that
            are no UTF-8 are escaped.
        label: name of its class.
        size: bytes.
        digest: hash of the file's content, hex.
    """

    split: str
    path: str
    label: str
    size: int
    digest: str


@dataclass(frozen=True)
class Contents:
    """All images of a run.

    Attributes:
        classes: class names, in the order of the labels.
        entries: the images, by split, class and path.
        unreadable: paths of the files that are left out, as in `Entry`.
    """

    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    unreadable: frozenset[str] = frozenset()

    def fingerprint(self) -> str:
        """Return a hex digest of names, classes and content of the images; not of how they are split."""
        lines = sorted(f"{nfc(entry.path)}\0{entry.label}\0{entry.digest}" for entry in self.entries)
        return blake2b("\n".join([*self.classes, "", *lines]).encode(), digest_size=16).hexdigest()

    def numbers(self) -> dict[str, int]:
        """Return how many images each split has."""
        return dict(Counter(entry.split for entry in self.entries))

    def write(self, file: Path) -> None:
        """Write the entries as a table."""
        write_csv(file, Entry._fields, (entry._asdict() for entry in self.entries))


def contents(index: ImageIndex, digest_of: Mapping[str, str], left_out: Iterable[Path] = ()) -> Contents:
    """Return the images of an index.

    Args:
        index: the readable files.
        digest_of: hash of the content of each, by `Sample.file`.
        left_out: the unreadable files.
    """
    prefix = f"{index.root}/"
    classes = tuple(map(as_text, index.classes))
    entries = tuple(
        Entry(
            split,
            as_text(file.removeprefix(prefix)),
            classes[label],
            os.stat(file).st_size,  # noqa: PTH116 - Path is slow here
            digest_of[file],
        )
        for split, samples in index.splits.items()
        for file, label in samples
    )
    return Contents(classes, entries, frozenset(as_text(str(path).removeprefix(prefix)) for path in left_out))


def look(source: Callable[[], ImageIndex], decode: bool) -> Contents:
    """Return the images that there are now.

    Args:
        source: builds their index.
        decode: tell which files can be read as images by decoding those that were not checked yet. Otherwise their
            content is only hashed, and all of them count as images; that needs no torch.

    Raises:
        UserError: the data cannot be used.
    """
    index = source()
    files = [sample.file for samples in index.splits.values() for sample in samples]
    if decode:
        verdicts = check_files(index.root, files)
        broken = [item.path for item in unreadable(verdicts)]
        return contents(index.without(broken), {file: found.digest for file, found in verdicts.items()}, broken)
    found = digests(index.root, files)
    return contents(index.without([Path(file) for file, digest in found.items() if not digest]), found)


def read_entries(file: Path) -> tuple[Entry, ...]:
    """Return the rows of a `data.csv`.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = csv.reader(lines)
            if tuple(next(rows, ())) != Entry._fields:
                raise ValueError(f"its first line is not {','.join(Entry._fields)}")
            return tuple(Entry(split, path, label, int(size), digest) for split, path, label, size, digest in rows)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{file} cannot be read ({error}): put it back, or move it away to have numbers compared only"
        ) from error


def as_text(name: str) -> str:
    """Return a file's name as text that can be written anywhere."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()
