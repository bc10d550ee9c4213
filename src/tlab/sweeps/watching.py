"""Looking again and again at what other processes have done, while this one waits for them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 1.0  # seconds between two looks


@contextmanager
def watching(look: Callable[[], object]) -> Iterator[None]:
    """Call `look` every second as long as the block lasts, in a thread of its own; no call outlasts the block."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(EVERY):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
