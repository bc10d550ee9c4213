"""Overrides as they are typed and as Hydra reads them."""

import re
from collections.abc import Sequence
from pathlib import Path


def tidy(arguments: Sequence[str]) -> list[str]:
    """Return the arguments as Hydra can read them.

    `-m` may stand anywhere, and a path that exists needs no quotes: a run of a sweep has `=` and `,` in its name.
    """
    flags = [argument for argument in arguments if argument in ("-m", "--multirun")]
    tidied = [*flags[:1]]
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and not key.startswith("-") and re.search(r"[^\w./~-]", value) and _exists(value):
            argument = quoted(key, value)
        if argument not in flags:
            tidied.append(argument)
    return tidied


def _exists(value: str) -> bool:
    try:
        return Path(value).exists()
    except (OSError, ValueError):  # longer than a path can be
        return False


def quoted(key: str, value: str) -> str:
    """Return the override that sets `key` to a text with any characters in it."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"


def key_and_value(override: str) -> tuple[str, str]:
    """Return the key without `+` or `~`, and the value without quotes."""
    key, _, value = override.lstrip("+~").partition("=")
    return key, value.strip("'\"")
