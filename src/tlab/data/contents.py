"""The images of a run by name, class, split and content, independent of their location."""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from tlab.core.errors import UserError
from tlab.core.files import identity_if_there, write_csv
from tlab.core.text import as_text
from tlab.data.decode_options import DEFAULTS, DecodeOptions
from tlab.data.sources.folder import ImageIndex
from tlab.data.sources.scan import nfc
from tlab.data.sources.table_columns import ExtraColumns
from tlab.data.sources.verify import (
    CHECK_SECONDS,
    FileCheck,
    FileChecks,
    Unreadable,
    check_files,
    read_files,
    unreadable,
)


class Entry(NamedTuple):
    """One image, as a row of `data.csv`.

    Attributes:
        split: Name of the split: "train", "val" or "test".
        path: Path relative to the root of the data, with forward slashes; absolute for a file elsewhere. Bytes that
            are not UTF-8 are escaped.
        label: Name of the class.
        size: File size in bytes.
        digest: Hash of the file's content, hexadecimal; "" of a file that was passed over (`verify.check_files`).
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
        classes: Class names, in the order of the labels.
        entries: The images, sorted by split, class and path.
        unreadable: Paths of the unreadable files, as in `Entry`.
        columns: What a table says of the images besides, which makes them no others.
    """

    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    unreadable: frozenset[str] = frozenset()
    columns: ExtraColumns | None = field(default=None, compare=False)

    def fingerprint(self, divided: bool = False, by_size: bool = False) -> str:
        """Return a hex digest of the images' names, classes and content.

        Where some were passed over their sizes stand for the content of all, so that it is the same whichever they
        were.

        Args:
            divided: Whether it depends on the images' splits, too.
            by_size: Let sizes stand for the content in any case.
        """
        whole = not by_size and all(entry.digest for entry in self.entries)
        lines = sorted(
            f"{nfc(entry.path)}\0{entry.label}\0{entry.digest if whole else entry.size}"
            + (f"\0{entry.split}" if divided else "")
            for entry in self.entries
        )
        digest = blake2b("\n".join([*self.classes, ""]).encode(), digest_size=16)
        for line in lines:
            digest.update(f"\n{line}".encode())
        return digest.hexdigest()

    def numbers(self) -> dict[str, int]:
        """Return the number of images of each split."""
        return dict(Counter(entry.split for entry in self.entries))

    def write(self, file: Path) -> None:
        """Write the entries as a CSV table, with the columns of their own table that are called otherwise."""
        cells = self.columns.cells if self.columns else {}
        cells = {name: column for name, column in cells.items() if name not in Entry._fields}
        rows = {as_text(path): row for row, path in enumerate(self.columns.files)} if self.columns and cells else {}
        write_csv(
            file,
            (*Entry._fields, *cells),
            (
                entry._asdict() | {name: column[rows[entry.path]] for name, column in cells.items()}
                for entry in self.entries
            ),
        )


def contents(index: ImageIndex, checks: Mapping[str, FileCheck], left_out: Iterable[Path] = ()) -> Contents:
    """Return the images of an index.

    Args:
        index: Index of the readable files.
        checks: `Sample.file` -> what is known of it.
        left_out: Paths of the unreadable files.
    """
    prefix = f"{index.root}/"
    classes = tuple(map(as_text, index.classes))
    entries = tuple(
        Entry(split, as_text(file.removeprefix(prefix)), classes[label], _size(file), _digest(checks[file]))
        for split, samples in index.splits.items()
        for file, label in samples
    )
    unreadable = frozenset(as_text(str(path).removeprefix(prefix)) for path in left_out)
    return Contents(classes, entries, unreadable, index.columns)


class Membership(NamedTuple):
    """Which images a run has that its check has passed over, and which it has not for their damage.

    Another check, which decodes others, must not change that.

    Attributes:
        kept: Paths, as in `Entry`, of images that were passed over.
        left_out: Path, as in `Entry`, -> reason of files that the check has found to be unreadable.
    """

    kept: frozenset[str] = frozenset()
    left_out: Mapping[str, str] = MappingProxyType({})

    def unreadable(
        self, root: Path, files: Iterable[str], found: list[Unreadable], checks: FileChecks[str]
    ) -> list[Unreadable]:
        """Return the files to leave out.

        Args:
            root: Root of the data.
            files: Absolute paths of all files.
            found: The files that a check has found to be unreadable.
            checks: What it has found.
        """
        if not self.kept and not self.left_out:
            return found

        def name(file: object) -> str:
            return as_text(str(file).removeprefix(f"{root}/"))

        still = [item for item in found if name(item.path) not in self.kept]
        before = [
            Unreadable(Path(file), self.left_out[name(file)])
            for file in files
            if not checks[file].is_decoded and name(file) in self.left_out
        ]
        return [*still, *before]


NO_CHECK_BEFORE = Membership()


def read_contents(
    source: Callable[[], ImageIndex],
    decode: bool,
    options: DecodeOptions = DEFAULTS,
    before: Membership = NO_CHECK_BEFORE,
    seconds: float | None = CHECK_SECONDS,
) -> Contents:
    """Return the present images of a source.

    Args:
        source: Function that builds their index.
        decode: Decode files not checked before, and leave out unreadable ones. Otherwise their content is only
            hashed, and all count as images; that needs no torch.
        options: Which files are readable.
        before: Which of those that a check has passed over a run has.
        seconds: What the check may take, see `verify.check_files`.

    Raises:
        UserError: The data cannot be used.
    """
    index = source()
    files = [sample.file for samples in index.splits.values() for sample in samples]
    if decode:
        verdicts = check_files(index.root, files, options.max_megapixels, seconds)
        broken = before.unreadable(index.root, files, unreadable(verdicts, options.truncated), verdicts)
        paths = [item.path for item in broken]
        return contents(index.without(paths), verdicts, paths)
    found = read_files(index.root, files, options, seconds)
    broken = before.unreadable(index.root, files, unreadable(found), found)
    return contents(index.without([item.path for item in broken]), found)


def _digest(check: FileCheck) -> str:
    return "" if check.reason else check.digest  # one that is kept though it is damaged (`Membership`)


def _size(file: str) -> int:
    identity = identity_if_there(file)
    return identity[0] if identity else 0


def as_far_as_known(one: Contents, other: Contents) -> tuple[Contents, Contents]:
    """Return both, without the hashes of images that the other has at the same size, but has passed over."""
    if all(entry.digest for each in (one, other) for entry in each.entries):
        return one, other
    unknown = {(nfc(e.path), e.size) for each in (one, other) for e in each.entries if not e.digest}
    known = (
        (e._replace(digest="") if (nfc(e.path), e.size) in unknown else e for e in c.entries) for c in (one, other)
    )
    return replace(one, entries=tuple(next(known))), replace(other, entries=tuple(next(known)))


def keeping_order(source: Callable[[], ImageIndex], classes: Sequence[str]) -> Callable[[], ImageIndex]:
    """Return a source of the same images, with the classes in the order that a run has had.

    Earlier versions of tlab sorted numbers as text.

    Args:
        source: Function that indexes the images.
        classes: The run's class names, as text; where they are others than the images', nothing changes.
    """

    def index() -> ImageIndex:
        found = source()
        names = {as_text(name): name for name in found.classes}
        return found.with_classes([names[name] for name in classes]) if {*classes} == names.keys() else found

    return index


def read_entries(file: Path) -> tuple[Entry, ...]:
    """Return the rows of a `data.csv`, without further columns.

    Raises:
        UserError: The file cannot be read, or is damaged.
    """
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = csv.reader(lines)
            if tuple(next(rows, ()))[: len(Entry._fields)] != Entry._fields:
                raise ValueError(f"its first line is not {','.join(Entry._fields)}")
            # the replacement is for earlier versions, which wrote \xe9 as \udce9
            return tuple(
                Entry(split, path.replace("\\udc", "\\x"), label.replace("\\udc", "\\x"), int(size), digest)
                for split, path, label, size, digest, *_ in rows
            )
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{file} cannot be read ({error}): put it back, or move it away to have numbers compared only"
        ) from error
