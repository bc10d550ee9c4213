"""How many cores this process may use."""

import os


def cores() -> int:
    """Return the number of CPU cores open to this process (macOS and Windows: all of the machine)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_of_cores() -> int:
    """Return how many of them are for this process, of a run that may have several here."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
