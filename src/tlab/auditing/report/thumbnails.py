"""Small pictures of image files, as text of an HTML page."""

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2

from tlab.core.hardware import cpu_count, single_threaded, thread_pool
from tlab.data.decode import DecodeError, decode
from tlab.data.decode_options import DecodeOptions

SIDE = 128  # most pixels of the longer side
JPEG_QUALITY = 80


def thumbnails(files: Sequence[Path]) -> Iterator[str | None]:
    """Yield a JPEG of at most 128 x 128 px per file as a `data:` URL; None for a file that cannot be read."""
    with single_threaded(), thread_pool(cpu_count()) as pool:
        yield from pool.map(_thumbnail, files)


def _thumbnail(file: Path) -> str | None:
    try:
        x_CHW = decode(file, 2 * SIDE, DecodeOptions(truncated=True), is_sound=False)
    except DecodeError:
        return None
    pixels_HWC = cv2.cvtColor(x_CHW.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2BGR)
    height, width = pixels_HWC.shape[:2]
    if (scale := SIDE / max(height, width)) < 1:
        size = max(1, round(scale * width)), max(1, round(scale * height))
        pixels_HWC = cv2.resize(pixels_HWC, size, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", pixels_HWC, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()
