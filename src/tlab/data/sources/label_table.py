"""A table of labels as people save it: with any usual delimiter and encoding, and stray blanks."""

import codecs
import csv
import gzip
import io
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tlab.core.errors import UserError
from tlab.core.text import counted, shell_word

DELIMITERS = ",;\t|"
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
KINDS = {  # by the first bytes
    b"PAR1": "a Parquet file",
    b"ARROW1": "a Feather file",
    b"MATLAB": "a MATLAB file",
    b"\x89HDF": "an HDF5 file",
    b"SQLite": "a database",
}
MARKUP = {b"<!doctype": "a web page", b"<html": "a web page", b"<?xml": "XML"}  # in any case, after blanks
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # first bytes of .xlsx and .xls

# Format characters, which have no glyph; joiners shape the letters beside them in some scripts
_UNSEEN = re.compile(
    "[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
    r"|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
)
# A line, which goes on behind line ends in a cell between quotes
_LINE = re.compile(r'(?:(?:^|(?<=[,;\t|])) *"(?:[^"]|"")*"(?= *(?:[,;\t|\r\n]|$))|[^\r\n])*')
_PAIRS = re.compile(rb"[\x81-\xfe][\x80-\xfe]")  # the characters of GBK but for the rarest
_APART = re.compile(r"(?<![A-Za-z\x80-\U0010ffff])[\x80-\U0010ffff]+(?![A-Za-z\x80-\U0010ffff])")  # from letters
_HYPHENS = str.maketrans("\u2010\u2011", "--")  # the second does not break a line


def as_seen(text: str) -> str:
    """Return what a person sees of `text`: one form for texts that differ in blanks or in invisible characters."""
    if not text.isascii():
        text = _UNSEEN.sub("", unicodedata.normalize("NFC", text)).translate(_HYPHENS)
    return " ".join(text.split())


class LabelTable(NamedTuple):
    """The cells of a table.

    Attributes:
        file: The table.
        encoding: Encoding in which it was read.
        delimiter: Character between its cells.
        columns: Names of the columns.
        rows: Cells of each row that is not empty, as many as there are columns.
        ragged: Numbers, from 1, of the rows that have more cells than there are columns.
    """

    file: Path
    encoding: str
    delimiter: str
    columns: list[str]
    rows: list[list[str]]
    ragged: list[int]

    def column(self, name: str) -> list[str]:
        """Return the cells of a column."""
        place = self.columns.index(name)
        return [row[place] for row in self.rows]

    def remarks(self, used: Sequence[str]) -> Iterator[str]:
        """Yield sentences about how the table was read, as far as these cells of it tell."""
        odd = next((cell for cell in used if not cell.isascii()), None)
        if odd is not None and not self.encoding.startswith("utf"):
            yield (
                f"{self.file} is not in UTF-8 and was read as {self.encoding}, for example {odd!r}: if that is not "
                "what it says, save it in UTF-8."
            )
        if self.ragged:
            yield (
                f"{counted(self.ragged, 'row')} of {self.file} with more cells than it has columns (row "
                f"{self.ragged[0]} is the first): a name with a comma in it must be quoted."
            )


def read_table(file: Path, wanted: Sequence[str], key: str = "data.labels") -> LabelTable:
    """Return the cells of a table whose first line names its columns.

    Args:
        file: The table, also packed with gzip or alone in a zip archive; columns are separated by commas,
            semicolons, tabs or bars, or else by blanks.
        wanted: Names of columns, which tell the delimiter where several are possible.
        key: The key that names it, for the error.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: It is no table, or in an unknown encoding.
    """
    try:
        text, encoding = table_text(file, key)
        header, rest = _first_line(text)
        if named := re.fullmatch(r"sep=(.)", header, re.IGNORECASE):  # as Excel writes it
            header, rest = _first_line(rest)
        elif title := _title(header, _first_line(rest)[0], wanted):
            lines = text[: len(text) - len(rest)].count("\n") + 1
            raise UserError(
                f"The first line of {file} names no columns, but is the title {title!r}: remove it with "
                f"sed -i 1,{lines}d {shell_word(str(file))}"
            )
        usual = DELIMITERS if any(each in header for each in DELIMITERS) else " "
        delimiters = [named[1]] if named else sorted(usual, key=header.count, reverse=True)
        columns = {each: _names(csv.reader([header], delimiter=each, skipinitialspace=True)) for each in delimiters}
        delimiter = next((each for each in delimiters if {*wanted} <= {*columns[each]}), delimiters[0])
        reader = csv.reader(io.StringIO(header + rest, newline=""), delimiter=delimiter, skipinitialspace=True)
        names = _names(reader)
        rows = [row for row in reader if any(map(str.strip, row))]
    except FileNotFoundError:
        raise
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(
            f"{key}: {file} cannot be read as a table ({error}): correct it, or save it as CSV in UTF-8."
        ) from None
    width = len(names)
    ragged = [number for number, row in enumerate(rows, 1) if any(map(str.strip, row[width:]))]
    cells = [(row + [""] * width)[:width] for row in rows]
    return LabelTable(file, encoding, delimiter, names, cells, ragged)


def table_text(file: Path, key: str = "data.labels") -> tuple[str, str]:
    """Return the text of a table, unpacked, and its encoding.

    Raises:
        OSError, UnicodeError: It cannot be read.
        UserError: It is no text.
    """
    return _decode(file, _unpacked(file, file.read_bytes(), key), key)


def _first_line(text: str) -> tuple[str, str]:
    """Return the first line that is not empty, and the rest; a tab before it may follow a column without a name."""
    text = text.lstrip(" \r\n")
    found = _LINE.match(text)
    assert found is not None  # an empty line is one
    return found[0], text[found.end() :]


def _title(header: str, second: str, wanted: Sequence[str]) -> str | None:
    """Return what is in the first line if that is a title or a comment above the line that names the columns."""
    cells, others = (max((re.split(re.escape(d), line) for d in DELIMITERS), key=len) for line in (header, second))
    filled = [cell for cell in map(as_seen, cells) if cell]
    alone = filled == [as_seen(cells[0])] and filled[0] not in wanted and len(others) > 1
    above = header.startswith("#") and {*wanted} <= {as_seen(cell.strip('" ')) for cell in others}
    return as_seen(header.strip("".join(DELIMITERS))) if alone or above else None


def _names(rows: Iterator[list[str]]) -> list[str]:
    return [as_seen(cell) for cell in next(rows, [])]


def _unpacked(file: Path, content: bytes, key: str) -> bytes:
    """Return the content of a file packed with gzip, or of the only one in a zip archive; else what is given."""
    try:
        if content.startswith(b"\x1f\x8b"):
            return gzip.decompress(content)
        if zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                inner = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
                if len(inner) == 1:
                    return archive.read(inner[0])
                if "[Content_Types].xml" not in inner:  # which workbooks have
                    raise UserError(f"{key}: {file} holds {len(inner)} files: unpack it, and name the table.")
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
        raise UserError(f"{key}: {file} cannot be read ({error}): unpack it, and name the table.") from None
    return content


def _decode(file: Path, content: bytes, key: str) -> tuple[str, str]:
    """Return the text of a table and its encoding.

    Without a byte order mark, and not UTF-8, it is Chinese if all bytes beyond ASCII begin characters of GBK, of
    most of which both bytes are beyond ASCII, without a letter of ASCII beside them, as accented letters have. Else
    it is Western.
    """
    if content.startswith(WORKBOOKS):
        raise UserError(f"{key}: {file} is an Excel workbook: save it as CSV in UTF-8, and name that file.")
    start = content.removeprefix(codecs.BOM_UTF8).lstrip()[:10].lower()
    kinds = [kind for first, kind in KINDS.items() if content.startswith(first)]
    kind = next(iter(kinds + [kind for first, kind in MARKUP.items() if start.startswith(first)]), "")
    if file.suffix.lower() in (".json", ".jsonl", ".ndjson") and content.lstrip()[:1] in (b"[", b"{"):
        kind = "JSON"
    if kind:
        raise UserError(f"{key}: {file} is {kind}, no table: save it as CSV in UTF-8, and name that file.")
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding), encoding
    if b"\0" in content[:1000]:
        halves = {content[1:40:2].strip(b"\0"): "utf-16-le", content[:40:2].strip(b"\0"): "utf-16-be"}
        wide = halves.get(b"")
        if wide is None:
            raise UserError(f"{key}: {file} is no text: save it as CSV in UTF-8, and name that file.")
        return content.decode(wide), wide
    for encoding in ("utf-8", "gb18030", "cp1252"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding == "gb18030":
            pairs = _PAIRS.findall("".join(_APART.findall(text)).encode(encoding))
            if 2 * len(pairs) <= len(re.findall(r"[^\x00-\x7f]", text)):
                continue
        return text, encoding
    return content.decode("utf-8"), "utf-8"  # raises, and says where
