"""The sizes of a set's images as a chart: width against height, both on the same logarithmic scale."""

import math
from collections import defaultdict
from collections.abc import Mapping

SIDE, LEFT, ROOM = 320, 44, 8  # of the square in user units; left of and below it; around it
CELLS = 64  # along a side: sizes that fall into one cell share a dot
LARGEST = 14.0  # radius of the dot of most images
MOST_TICKS = 7


def size_chart(sizes: Mapping[tuple[int, int], int]) -> str:
    """Return an SVG with a dot per size, its area in proportion to the number of images.

    Args:
        sizes: (Width, height) in pixels -> number of images; at least one.
    """
    sides = [side for size in sizes for side in size]
    low, high = min(sides) / 1.15, max(sides) * 1.15

    def place(side: float) -> float:
        return SIDE * math.log(side / low) / math.log(high / low)

    cells: dict[tuple[int, int], list[tuple[int, tuple[int, int]]]] = defaultdict(list)
    for size, count in sizes.items():
        cells[round(place(size[0]) * CELLS / SIDE), round(place(size[1]) * CELLS / SIDE)].append((count, size))
    dots = [(sum(count for count, _ in cell), max(cell)[1], len(cell)) for cell in cells.values()]
    most = max(count for count, *_ in dots)
    drawn = "".join(
        f"<circle cx='{LEFT + place(width):.1f}' cy='{ROOM + SIDE - place(height):.1f}' "
        f"r='{max(1.5, LARGEST * math.sqrt(count / most)):.1f}'>"
        f"<title>{width} × {height} px{' and the like' if kinds > 1 else ''}: {count:,}</title></circle>"
        for count, (width, height), kinds in sorted(dots, reverse=True)
    )
    ticks = "".join(
        f"<path d='M{LEFT + place(side):.1f} {ROOM}v{SIDE}M{LEFT} {ROOM + SIDE - place(side):.1f}h{SIDE}'/>"
        f"<text x='{LEFT + place(side):.1f}' y='{ROOM + SIDE + 16}' text-anchor='middle'>{side}</text>"
        f"<text x='{LEFT - 6}' y='{ROOM + SIDE - place(side) + 4:.1f}' text-anchor='end'>{side}</text>"
        for side in _ticks(low, high)
    )
    return (
        f"<svg class='sizes' viewBox='0 0 {LEFT + SIDE + ROOM} {ROOM + SIDE + LEFT}' role='img' "
        f"aria-label='Width against height of the images'>{ticks}"
        f"<path class='square' d='M{LEFT} {ROOM + SIDE}L{LEFT + SIDE} {ROOM}'/>{drawn}"
        f"<text x='{LEFT + SIDE}' y='{ROOM + SIDE + 34}' text-anchor='end'>width in px →</text>"
        f"<text x='{LEFT + 4}' y='{ROOM + 12}'>↑ height in px</text></svg>"
    )


def _ticks(low: float, high: float) -> list[int]:
    """Return round numbers from `low` to `high`, evenly spread on the logarithmic scale."""
    steps = [k * 10**power for power in range(7) for k in (1, 2, 5)]
    if high / low < 4:
        step = max(step for step in steps if step <= max(1, (high - low) / 3))
        return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    within = [step for step in steps if low <= step <= high]
    return within[:: math.ceil(len(within) / MOST_TICKS)]
