"""What was measured on this machine, kept in the cache directory from one command to the next."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tlab.core.files import cache_dir, write_text
from tlab.core.locks import FileLock


def load_measurement(kind: str, name: str) -> dict[str, Any]:
    """Return what `save_measurement` has kept under this kind and name; empty if there is nothing."""
    return load_measurements(kind).get(name, {})


def save_measurement(kind: str, name: str, value: Mapping[str, Any]) -> None:
    """Keep what was measured; where the cache cannot be written, it is measured again next time.

    One process at a time does so, and each adds to what the others have kept.

    Args:
        kind: Names the file in the cache directory.
        name: All that the value depends on.
        value: Plain data.
    """
    with suppress(OSError), FileLock(cache_dir() / ".remember.lock").held():
        measured = load_measurements(kind) | {name: dict(value)}
        write_text(cache_dir() / f"{kind}.json", json.dumps(measured, indent=1))


def load_measurements(kind: str) -> dict[str, Any]:
    """Return all that was measured of a kind, by name."""
    try:
        return dict(json.loads((cache_dir() / f"{kind}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):  # none, or damaged: it is measured anew
        return {}
