"""Small pictures of images, as text of an HTML page."""

import base64
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
from torch import Tensor

from tlab.core.hardware import cpu_count, single_threaded, thread_pool
from tlab.data.decode import DecodeError, decode
from tlab.data.decode_options import DecodeOptions

SIDE = 128  # most pixels of the longer side
JPEG_QUALITY = 80
OPTIONS = DecodeOptions(truncated=True)


def thumbnails(files: Sequence[Path], options: DecodeOptions = OPTIONS) -> Iterator[str | None]:
    """Yield a JPEG of at most 128 x 128 px per file as a `data:` URL; None for a file that cannot be read."""
    with single_threaded(), thread_pool(cpu_count()) as pool:
        yield from pool.map(partial(_thumbnail, options=options), files)


def data_url(x: Tensor, most: int = SIDE) -> str:
    """Return an image, uint8 `3 H W`, as a JPEG of at most `most` pixels a side, as a `data:` URL."""
    pixels_HWC = cv2.cvtColor(x.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2BGR)
    height, width = pixels_HWC.shape[:2]
    if (scale := most / max(height, width)) < 1:
        size = max(1, round(scale * width)), max(1, round(scale * height))
        pixels_HWC = cv2.resize(pixels_HWC, size, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", pixels_HWC, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()


def _thumbnail(file: Path, options: DecodeOptions) -> str | None:
    try:
        return data_url(decode(file, 2 * SIDE, options, is_sound=False))
    except DecodeError:
        return None
