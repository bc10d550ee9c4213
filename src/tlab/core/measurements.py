"""Measurements on this machine, kept in the cache directory between commands."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tlab.core.files import cache_dir, write_text
from tlab.core.locks import FileLock


def load_measurement(kind: str, name: str) -> dict[str, Any]:
    """Return what `save_measurement` saved under this kind and name; empty if nothing."""
    return _load(kind).get(name, {})


def save_measurement(kind: str, name: str, value: Mapping[str, Any]) -> None:
    """Save a measurement, if the cache can be written; one process at a time adds to the file.

    Args:
        kind: Stem of the file in the cache directory.
        name: Key that includes everything the value depends on.
        value: Measurement, as plain JSON data.
    """
    with suppress(OSError), FileLock(cache_dir() / ".remember.lock").held():
        measured = _load(kind) | {name: dict(value)}
        write_text(cache_dir() / f"{kind}.json", json.dumps(measured, indent=1))


def _load(kind: str) -> dict[str, Any]:
    """Return all measurements of a kind, by name."""
    try:
        return dict(json.loads((cache_dir() / f"{kind}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):  # missing or damaged: measured again
        return {}
