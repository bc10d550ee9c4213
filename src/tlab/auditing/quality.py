"""Images that show little: too dark or bright, blurred, tiny, of an odd shape, or without content."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tlab.auditing.image_measures import ImageMeasures
from tlab.core.text import counted

USUAL = 0.05  # share of the images from which something is how these data look, and not a fault


def quality_issues(images: Sequence[ImageMeasures]) -> tuple[dict[int, list[tuple[str, float]]], list[str]]:
    """Return what is wrong with images, by what is usual for the others.

    Args:
        images: The measures of each.

    Returns:
        Row -> reasons, and how bad each is in 0..1; sentences about what so many images have that none is listed.
    """
    found: dict[int, list[tuple[str, float]]] = {}
    remarks = []
    for name, reason, value, limit in _measures(images) if images else ():
        rows = np.flatnonzero(value < limit)
        if len(rows) > max(1, USUAL * len(images)):
            remarks.append(f"{counted(rows, 'image is', 'images are')} {name}: so many that none is listed for it.")
            continue
        for row in rows.tolist():
            severity = 1 - float(value[row] / limit) / 2
            found.setdefault(row, []).append((reason(images[row]), severity))
    return found, remarks


Measure = tuple[str, Callable[[ImageMeasures], str], NDArray[np.float64], float]


def _measures(images: Sequence[ImageMeasures]) -> Iterator[Measure]:
    """Yield what may be wrong, the words for an image, a value of each image, and the limit that it must reach."""

    def values(read: Callable[[ImageMeasures], float]) -> tuple[NDArray[np.float64], float]:
        value = np.array([read(image) for image in images])
        return value, float(np.median(value))

    light, usual = values(lambda image: image.brightest)
    yield "dark", lambda i: f"dark: 99 % of it is below {i.brightest:.0%} of white", light, min(0.25, usual / 2)
    shade, usual = values(lambda image: 1 - image.darkest)
    yield "bright", lambda i: f"bright: 95 % of it is above {i.darkest:.0%} of white", shade, min(0.15, usual / 2)
    sharp, usual = values(lambda image: image.sharpness)
    yield "blurred", lambda i: "blurred", sharp, min(0.2, usual / 3)
    content, usual = values(lambda image: image.entropy)
    yield "nearly blank", lambda i: f"nearly blank: {i.entropy:.1f} bits", content, min(2.0, usual / 3)
    side, usual = values(lambda image: min(image.size))
    yield "tiny", lambda i: f"tiny: {i.size[0]} x {i.size[1]} pixels", side, min(64.0, usual / 3)
    shape, usual = values(lambda image: min(image.size) / max(image.size))
    yield "of an odd shape", lambda i: f"of an odd shape: {i.size[0]} x {i.size[1]}", shape, min(1 / 3, usual / 2)
