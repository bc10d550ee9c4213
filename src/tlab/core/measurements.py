"""Measurements on this machine, kept in the cache directory between commands."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from tlab.core.files import cache_dir, write_text
from tlab.core.locks import FileLock


@contextmanager
def measurements(kind: str) -> Iterator[dict[str, dict[str, Any]]]:
    """Yield all measurements of a kind, by name; what the block adds is saved.

    One process at a time is in the block, so that others wait for its result; none waits, and nothing is saved,
    where the cache cannot be written.

    Args:
        kind: Stem of the file in the cache directory. Names include everything that a value depends on, and values
            are plain JSON data.
    """
    file = cache_dir() / f"{kind}.json"
    with ExitStack() as one_at_a_time:
        with suppress(OSError):
            one_at_a_time.enter_context(FileLock(file.with_name(f".{file.name}.lock")).held())
        known: dict[str, dict[str, Any]] = {}
        with suppress(OSError, ValueError):  # missing or damaged: measured again
            known.update(json.loads(file.read_text(encoding="utf-8")))
        before = dict(known)
        yield known
        if known != before:
            with suppress(OSError):
                write_text(file, json.dumps(known, indent=1))


def remembered(kind: str, name: str | None, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a measurement, from the cache directory if it is there; others need not wait while it is taken.

    For what takes long and is no timing; of two processes that take it at once the later one's is kept.

    Args:
        kind: As for `measurements`.
        name: Likewise; None where nothing tells the measurement from others: it is taken each time.
        measure: Takes the measurement.
    """
    if name is None:
        return measure()
    with measurements(kind) as known:
        found = known.get(name)
    if found is None:
        found = measure()
        with measurements(kind) as known:
            known[name] = found
    return found
