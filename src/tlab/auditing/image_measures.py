"""What an audit reads of each image file, once: a small gray copy of it, and measures of its quality."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tlab.core.hardware import cpus_per_process, single_threaded, thread_pool
from tlab.data import progress_bar
from tlab.data.decode import DecodeError, decode, read_bytes
from tlab.data.decode_options import DEFAULTS, DecodeOptions
from tlab.data.sources.verify import FileCheck, FileChecks, content_digest

SMALL = 64  # side of the gray copies, in pixels
LEAST_SIDE = 128  # pixels of the shorter side at which quality is measured
AHEAD = 256  # files queued for the threads at once


class ImageMeasures(NamedTuple):
    """One image.

    Attributes:
        gray: The whole of it as a square, `64 64`, uint8.
        size: Width and height in pixels, upright.
        mode: What Pillow calls the color mode of the file.
        digest: Hash of the file's content, hexadecimal.
        darkest: Gray level that 5 % of the pixels do not reach, in 0..1.
        brightest: Gray level that 1 % of the pixels exceed, in 0..1.
        entropy: Of the histogram of gray levels, in bits, 0 to 8.
        sharpness: Standard deviation of the Laplacian over that of the gray levels, where the shorter side is 128.
        mean: Mean of red, green and blue, in 0..1.
        square: Mean of their squares.
    """

    gray: NDArray[np.uint8]
    size: tuple[int, int]
    mode: str
    digest: str
    darkest: float
    brightest: float
    entropy: float
    sharpness: float
    mean: NDArray[np.float64]
    square: NDArray[np.float64]


@dataclass
class Measured:
    """The images that could be read, and why others could not.

    Attributes:
        rows: Number of each readable file among all files, in order.
        images: The measures of each.
        failed: File -> reason.
    """

    rows: list[int] = field(default_factory=list)
    images: list[ImageMeasures] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def gray(self) -> NDArray[np.uint8]:
        """All gray copies: `N 64 64`, uint8."""
        return np.stack([image.gray for image in self.images])


def measure_images(files: Sequence[str], checks: FileChecks[str], options: DecodeOptions = DEFAULTS) -> Measured:
    """Read every file once, a JPEG at a reduced size, and measure it; a progress bar shows how far it is.

    Args:
        files: Absolute paths.
        checks: What is known of each: the digests, and whether it is sound.
        options: How the files are decoded.
    """
    found = Measured()

    def measured(file: str) -> ImageMeasures | str:
        try:
            return _measure(Path(file), checks[file], checks.is_sound(file), options)
        except DecodeError as error:
            return error.reason

    with single_threaded(), thread_pool(cpus_per_process()) as pool:
        results = progress_bar.shown(_in_threads(pool, measured, files), "Measuring images", len(files))
        for row, result in enumerate(results):
            if isinstance(result, str):
                found.failed[files[row]] = result
            else:
                found.rows.append(row)
                found.images.append(result)
    return found


def _in_threads(
    pool: ThreadPoolExecutor, work: Callable[[str], ImageMeasures | str], files: Sequence[str]
) -> Iterator[ImageMeasures | str]:
    """Yield the results in order, without the list of all tasks."""
    for start in range(0, len(files), AHEAD):
        yield from pool.map(work, files[start : start + AHEAD])


def _measure(path: Path, check: FileCheck, is_sound: bool, options: DecodeOptions) -> ImageMeasures:
    """Measure a file.

    Raises:
        DecodeError: It cannot be read.
    """
    x_HWC = decode(path, LEAST_SIDE, options, is_sound, exact=False).permute(1, 2, 0).numpy()
    size, mode = _size_and_mode(path, x_HWC)
    scale = LEAST_SIDE / min(x_HWC.shape[:2])
    if scale < 1:
        x_HWC = cv2.resize(x_HWC, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    gray = cv2.cvtColor(x_HWC, cv2.COLOR_RGB2GRAY)
    smoothly = cv2.INTER_AREA if min(gray.shape) >= SMALL else cv2.INTER_LINEAR
    shares = cv2.calcHist([gray], [0], None, [256], [0, 256]).ravel() / gray.size
    darkest, brightest = np.searchsorted(np.cumsum(shares), (0.05, 0.99)) / 255
    used = shares[shares > 0]
    _, deviation = cv2.meanStdDev(gray)
    _, edges = cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_16S))
    mean, std = (each.ravel() / 255 for each in cv2.meanStdDev(x_HWC))
    return ImageMeasures(
        gray=cv2.resize(gray, (SMALL, SMALL), interpolation=smoothly).astype(np.uint8),
        size=size,
        mode=mode,
        digest=check.digest or content_digest(read_bytes(path)),
        darkest=float(darkest),
        brightest=float(brightest),
        entropy=float(-(used * np.log2(used)).sum()),
        sharpness=float(edges.item() / max(deviation.item(), 1.0)),
        mean=mean,
        square=std**2 + mean**2,
    )


def _size_and_mode(path: Path, x_HWC: NDArray[np.uint8]) -> tuple[tuple[int, int], str]:
    """Return width and height of an image as it is shown, and what Pillow calls its color mode.

    What Pillow alone cannot open (HEIC) has the size as decoded.
    """
    height, width = x_HWC.shape[:2]
    with suppress(Exception), Image.open(path) as image:
        turned = (image.width > image.height) != (width > height) and width != height
        return (image.height, image.width) if turned else image.size, image.mode
    return (width, height), "RGB"
