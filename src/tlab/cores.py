"""How many cores this process may use."""

import os


def cores() -> int:
    """Return the number of CPU cores open to this process (macOS and Windows: all of the machine)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
