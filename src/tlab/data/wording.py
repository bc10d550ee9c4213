"""How sentences about files and classes name many of them."""

from collections.abc import Iterable


def few(names: Iterable[str]) -> str:
    """Return the first three names, and how many more there are: `a, b, c and 4 more`."""
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
