"""Human-readable text: lists of names, durations, paths, names of files, and words of bash."""

import re
import shlex
from collections.abc import Collection, Iterable
from pathlib import Path


def few(names: Iterable[str], most: int = 3) -> str:
    """Return the first names, `most` of them, and the number of others: `a, b, c and 4 more`."""
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def noun(number: int, one: str, several: str | None = None) -> str:
    """Return the noun of a number of things; `several` is the plural, unless that only has an s more."""
    return one if number == 1 else several or f"{one}s"


def counted(things: Collection[object] | int, one: str, several: str | None = None) -> str:
    """Return the number of things with their noun: `1 class`, `1,200 classes`; see `noun`."""
    number = things if isinstance(things, int) else len(things)
    return f"{number:,} {noun(number, one, several)}"


def duration(seconds: float) -> str:
    """Return a duration as text: `8.4 s`, `2 min 05 s`, `1 h 02 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def short_path(path: Path) -> Path:
    """Return `path` relative to the current directory if it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def as_text(name: str) -> str:
    r"""Return a file's name as valid text, the same in every locale; bytes that are not UTF-8 become `\xe9`."""
    if name.isascii():
        return name
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a surrogate pair, which no file's name has
        return name.encode("utf-8", "backslashreplace").decode()


def shell_word(text: str) -> str:
    """Return `text` as a word of bash; control characters and undecodable bytes of file names are escaped."""
    if not re.search(r"[\x00-\x1f\x7f\udc80-\udcff]", text):
        return shlex.quote(text)
    escaped = re.sub(r"[\\']", r"\\\g<0>", text)
    return f"$'{re.sub(r'[^ -~]', _escaped_bytes, escaped)}'"


def shell_command(words: Iterable[str]) -> str:
    """Return words as a command line of bash."""
    return " ".join(map(shell_word, words))


def _escaped_bytes(character: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character[0].encode("utf-8", "surrogateescape"))
