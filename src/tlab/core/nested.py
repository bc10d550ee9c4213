"""Nested plain data: mappings and lists in each other."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any


def leaves(node: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the place (keys and indices that lead there) and the value of all that is no mapping, list or tuple."""
    if not isinstance(node, Mapping | list | tuple):
        yield place, node
        return
    for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
        yield from leaves(value, (*place, str(key)))


def with_leaves(node: Any, change: Callable[[Any, Any], Any], key: Any = None) -> Any:
    """Return a copy of nested dicts and lists in which `change(key, value)` replaces each other value.

    Args:
        node: The nested data.
        change: Function of a value and its key in a dict; in a list the key is None.
        key: Key of `node` itself.
    """
    if isinstance(node, dict):
        return {name: with_leaves(value, change, name) for name, value in node.items()}
    return [with_leaves(value, change) for value in node] if isinstance(node, list) else change(key, node)
