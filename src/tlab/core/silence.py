"""Silencing what a library says while it is used, and not longer: whoever imports tlab hears it as ever."""

import logging
import os
import re
import warnings
from threading import Lock
from typing import Any


class Silence:
    """A context without a module's warnings and log, and without warnings of one category.

    Any number of threads may be inside at once, which `warnings.catch_warnings` forbids: the first one to come adds
    filters, and the last one to leave removes them.

    Args:
        module: Name of the module, which is its logger's too.
        category: Category of warnings, whichever module they come from.
    """

    def __init__(self, module: str, category: type[Warning]) -> None:
        of_module = ("ignore", None, Warning, re.compile(re.escape(module)), 0)
        self._added: tuple[Any, ...] = (of_module, ("ignore", None, category, None, 0))
        self._logger = logging.getLogger(module)
        self._filters: list[Any] = []
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)  # another thread may hold the lock

    def _begin(self) -> None:
        self._lock, self._inside = Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._filters = warnings.filters  # type: ignore[assignment]
                self._filters[:0] = self._added
                self._logger.addFilter(_nothing)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._logger.removeFilter(_nothing)
                mine = {id(added) for added in self._added}  # whoever silences the same has an equal one
                for filters in (self._filters, warnings.filters):  # another one within `catch_warnings`, a copy
                    filters[:] = [each for each in filters if id(each) not in mine]  # type: ignore[index]


def _nothing(_: logging.LogRecord) -> bool:
    return False
