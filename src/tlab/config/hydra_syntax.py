"""Values as typed, in the syntax that Hydra reads: letters of any script, any path, quotes where needed."""

import os
import re
from typing import Any

from hydra.core.override_parser import overrides_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString, Sweep
from hydra.errors import HydraException

# What stands between two commas; in quotes or brackets there may be more of them
PART = re.compile(r"""(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\[[^\]]*\]|\{[^}]*\}|\([^)]*\)|[^,])+""", re.DOTALL)
STRUCTURED = re.compile(rf"""[\[{{'"]|(?:{"|".join(overrides_parser.create_functions().functions)})\(""")
UNREADABLE = object()


class _AnyLetters(overrides_parser.InputStream):
    """Hydra's input, in which all beyond ASCII are letters: its grammar knows those of ASCII only."""

    def __init__(self, data: str) -> None:
        super().__init__(data)
        self.data = [ord(each) if each.isascii() else ord("q") for each in data]  # for the lexer; the text stays


def read_any_letters() -> None:
    """Let Hydra read letters of any script in keys, values and mappings' keys."""
    overrides_parser.InputStream = _AnyLetters


def quote(text: str) -> str:
    """Return a text in quotes, as Hydra reads it."""
    return QuotedString(text, Quote.single).with_quotes()


def read(text: str) -> Any:
    """Return what Hydra reads in a value; `UNREADABLE` if it cannot."""
    try:
        return OverridesParser.create().parse_override(f"x={text}").value()
    except HydraException:
        return UNREADABLE


def readable(text: str, *, path: bool = False, container: bool = True, sweep: bool = False) -> str:
    """Return a value as typed in a form that Hydra reads; a broken one, such as an open list, stays as it is.

    Args:
        text: Value as typed.
        path: Whether it names a path, which is taken as typed, or holds several.
        container: Whether it can be a list or a mapping; if not, brackets belong to a path's name.
        sweep: Whether commas separate the values of a sweep.
    """
    home = in_home(text)
    path = path or home != text
    exists = os.path.lexists(home)  # False for what is longer than a path can be, too
    listed = container and text[:1] in ("[", "{") and not (path and exists)
    if not path:
        if re.fullmatch(r"[\w./-]*", text):
            return text
        if exists and not listed:
            return quote(text)
        if read(text) is not UNREADABLE:
            return text
    if sweep and not exists:
        parts = PART.findall(re.sub(r"^choice\((.+)\)$", r"\1", text, flags=re.DOTALL))
        if len(parts) > 1:
            return ",".join(readable(part.strip(), path=path, container=container) for part in parts)
    if listed and text.endswith({"[": "]", "{": "}"}[text[0]]):
        parts = []
        for part in PART.findall(text[1:-1]):
            key, colon, value = part.partition(":") if text[0] == "{" else ("", "", part)
            parts.append(key + colon + readable(value.strip(), path=path))
        return text[0] + ",".join(parts) + text[-1]
    if path and not listed:
        return _path(text, exists)
    return text if STRUCTURED.match(text) else quote(text)


def _path(text: str, exists: bool) -> str:
    """Return a path as typed in a form that Hydra reads; `null` and a function of Hydra's stay what they are."""
    value, path = read(text), text
    if not exists:
        if value is None or (isinstance(value, Sweep) and not getattr(value, "simple_form", False)):
            return text
        if isinstance(value, str) and ("\\" in text or text.startswith(("'", '"'))):
            path = value  # Hydra's own ways to write special characters
    path = in_home(path)
    return text if value == path else quote(path)


def in_home(text: str) -> str:
    """Return the path with the home directory for `~`."""
    return os.path.expanduser(text) if text == "~" or text.startswith("~/") else text  # noqa: PTH111
