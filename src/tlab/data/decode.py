"""Decoding of any image file to upright 8-bit RGB."""

import io
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, TiffTags, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile
from torch import Tensor

from tlab.core.files import is_device_or_pipe
from tlab.core.silence import Silence
from tlab.data.decode_options import (
    CUT_SHORT,
    DEFAULTS,
    EXTRA_BYTES,
    MAX_MEGAPIXELS,
    MOSTLY_THERE,
    DecodeOptions,
    Levels,
    SampleRange,
    sample_range,
)
from tlab.data.file_kinds import (
    BITS,
    CAMERA_RAW,
    DAMAGED,
    PLANES,
    SAMPLE_FORMAT,
    SAMPLES,
    TIFF,
    is_camera_raw,
    is_heic,
    kind_of,
    tiff_tags,
)
from tlab.data.jpeg_damage import JUNK, is_plain, lacks_blocks, lacks_scan, loads_exactly

ORIENTATION = 0x0112  # the EXIF tag, and TIFF's
EXTRA_SAMPLES, PHOTOMETRIC, ROWS = 338, 262, 278  # TIFF tags
WHITE_IS_ZERO, BLACK_IS_ZERO, OF_RGB, OF_PALETTE, OF_YCBCR = 0, 1, 2, 3, 6  # photometric interpretations
SIZE = (256, 257)
PACKING = (
    259,
    266,
    ROWS,
    317,
    322,
    323,
    347,
)  # compression, fill order, rows, predictor, tiles' size, JPEG's tables
STRIPS, TILES = (273, 279), (324, 325)  # where they are, and their numbers of bytes
UNSIGNED, SIGNED = 1, 2  # values of the tag of the sample format
TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
CV2_COLOR = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
# The names say gray, but the color flag decides; IMREAD_REDUCED_COLOR_* would give BGR
CV2_SCALES = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
DCT_SCALES = (8, 4, 2)  # factors by which libjpeg shrinks an image while decoding, which is faster
PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
NO_FILE = "a pipe or device, not a file"
# What Pillow says names no file; the check of the files (`sources.verify`) does
PILLOW_SILENT = Silence("PIL.TiffImagePlugin", Image.DecompressionBombWarning)


class DecodeError(Exception):
    """A file that cannot be read as an image.

    Attributes:
        path: Path of the file.
        reason: Reason, in plain words.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def decode(
    path: Path,
    least_side: int | None = None,
    options: DecodeOptions = DEFAULTS,
    is_sound: bool = True,
    exact: bool = True,
) -> Tensor:
    """Read an image file as a photo viewer would show it.

    The content decides the format, not the extension; of an animation the first frame is taken; EXIF
    orientation is applied; transparency is laid on white, unless the alpha channel hides the whole image or is the
    same everywhere; samples of more than 8 bits are scaled by `options.levels`.

    A large JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, if both sides are divisible by that number
    (else the pixels would shift) and the shorter one keeps `least_side` pixels. With `least_side` twice the
    side that the image is resized to afterwards, the result differs from that of the full size by less than 1 gray
    level in the mean and by 10 at most. One of more than `options.max_megapixels` is decoded at the first of these
    sizes that has fewer.

    Args:
        path: Path of the file.
        least_side: Pixels that the shorter side must keep; None decodes at full size.
        options: Which files are readable, and how deep samples are scaled.
        is_sound: Whether a JPEG has no known damage, of which OpenCV would write a line to the terminal; else it is
            decoded with Pillow, slower.
        exact: Whether pixels must not shift; else a plain JPEG of any sides may be shrunk.

    Returns:
        The image: `3 H W`, uint8, RGB, in H W C memory layout, which is fastest for torchvision's uint8 resize.

    Raises:
        DecodeError: The file cannot be read; `reason` says why.
    """
    return decode_bytes(path, read_bytes(path), least_side, options, is_sound, exact)


def decode_bytes(
    path: Path,
    content: bytes,
    least_side: int | None = None,
    options: DecodeOptions = DEFAULTS,
    is_sound: bool = True,
    exact: bool = True,
) -> Tensor:
    """Decode the content of an image file, see `decode`; `path` is for the error."""
    x_HWC = _plain_jpeg(content, least_side, options.max_megapixels, exact) if is_sound else None
    if x_HWC is None:
        with PILLOW_SILENT, _reasons(path, content):
            loaded = _load(path, content, False, least_side, options)
            x_HWC = np.array(upright_rgb(loaded.image, options.levels, loaded.low_HWC))
    return torch.from_numpy(x_HWC).permute(2, 0, 1)


def _plain_jpeg(
    content: bytes, least_side: int | None, max_megapixels: float = MAX_MEGAPIXELS, exact: bool = True
) -> np.ndarray | None:
    """Decode an upright RGB JPEG with OpenCV: H W 3, uint8; None for anything else, and if it looks damaged.

    OpenCV uses the same library as Pillow, with the same pixels, and copies them less often.
    """
    if not content.startswith(JPEG_START) or not content.endswith(JPEG_END):
        return None
    try:
        with PILLOW_SILENT, Image.open(io.BytesIO(content), formats=("JPEG",)) as image:  # the header only
            plain = image.format == "JPEG" and image.mode == "RGB"
            if not plain or ({"exif", "xmp"} & image.info.keys() and image.getexif().get(ORIENTATION, 1) != 1):
                return None
            if megapixels(image.size) > max_megapixels:
                return None
            scale = _scale(image.size, least_side, exact)
        return cv2.imdecode(np.frombuffer(content, np.uint8), CV2_COLOR | CV2_SCALES[scale])
    except Exception:  # Pillow then says what is wrong
        return None


def _at_once(path: str, flags: int) -> int:
    """Open a file, also a pipe to which nobody writes, without waiting."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, or raise a `DecodeError` that says why not."""
    try:
        with open(path, "rb", opener=_at_once) as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file.read()
        raise DecodeError(path, NO_FILE)  # it may never end
    except OSError as error:
        if is_device_or_pipe(path):
            raise DecodeError(path, NO_FILE) from None
        known = {FileNotFoundError: "no such file", PermissionError: "no permission to read it"}
        reason = known.get(type(error), f"cannot be read ({error.strerror or error})")
        raise DecodeError(path, reason) from None


def examine_bytes(path: Path, content: bytes, max_megapixels: float) -> tuple[str, SampleRange | None, str]:
    """Decode the content of an image file, JPEG at an eighth of the size, and say what it holds.

    A file that is cut short is read as far as it goes, if most of the image is there.

    Args:
        path: Path of the file, for the error.
        content: Bytes of the file.
        max_megapixels: See `DecodeOptions`.

    Returns:
        Name of the format, by content; range of samples of more than 8 bits; damage: "", `MOSTLY_THERE` or
        `EXTRA_BYTES`.

    Raises:
        DecodeError: As in `decode`.
    """
    options = DecodeOptions(max_megapixels=max_megapixels, truncated=True)
    with PILLOW_SILENT, _reasons(path, content):
        image, deep, _, damage = _load(path, content, True, None, options)
        upright_rgb(image, options.levels)  # which finds other faults
        samples = None
        if _is_deep_gray(image):
            samples = sample_range(_gray_samples(image))
        elif deep:
            bands: Any = image.getextrema()
            colors = bands[:1] if deep.startswith("LA") else bands[:3]
            samples = SampleRange("integers", 0, 256 * max(high for _, high in colors) + 255)
        return image.format or "", samples, damage


class _Loaded(NamedTuple):
    """An image as its file has it.

    Attributes:
        image: The image, of whose 16-bit color Pillow keeps the high bytes.
        deep: Raw mode of 16-bit color, else "".
        low_HWC: The low bytes of 16-bit color, where they matter.
        damage: "" if nothing is missing, else `MOSTLY_THERE`; of a `draft` perhaps `EXTRA_BYTES`.
    """

    image: Image.Image
    deep: str
    low_HWC: np.ndarray | None  # noqa: N815 - a shape
    damage: str


@contextmanager
def _reasons(path: Path, content: bytes) -> Iterator[None]:
    """Turn whatever the decoders raise inside the block into a `DecodeError`."""
    if not content:
        raise DecodeError(path, "empty file")
    try:
        yield
    except DecodeError:
        raise
    except UnidentifiedImageError:
        raise DecodeError(path, kind_of(content)) from None
    except Image.DecompressionBombError:
        raise DecodeError(path, "more pixels than Pillow decodes of this format: save it as PNG") from None
    except MemoryError:
        raise DecodeError(path, "too large for this machine's memory") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        reason = CUT_SHORT if _ends_early(error) else f"damaged image ({error or type(error).__name__})"
        known = kind_of(content) if "raw mode" in str(error) or content.startswith(JPEG_START) else DAMAGED
        raise DecodeError(path, reason if known == DAMAGED else known) from None


def _load(path: Path, content: bytes, draft: bool, least_side: int | None, options: DecodeOptions) -> _Loaded:
    """Return the image as the file has it; JPEG at an eighth of the size for a `draft`."""
    try:
        return _load_with_text(path, content, draft, least_side, options)
    except ValueError as error:
        if "MAX_TEXT" not in str(error):
            raise
        return _load_with_text(path, _without_text(content), draft, least_side, options)


def _load_with_text(
    path: Path, content: bytes, draft: bool, least_side: int | None, options: DecodeOptions
) -> _Loaded:
    planes = _tags_of_planes(content)
    image = _opened(_with_joined_planes(b"", planes) if planes else content)
    if isinstance(image, TiffImageFile) and is_camera_raw(image.tag_v2, content):
        raise DecodeError(path, CAMERA_RAW)
    if image.mode == "L" and _sample_format(image) == SIGNED:  # Pillow would take them for unsigned
        raise UnidentifiedImageError
    size = _decoded_size(path, image, 8 if draft else _scale(image.size, least_side), options.max_megapixels)
    if planes:
        content = _with_joined_planes(content, planes)
        image = _opened(content)
    full = image.size if megapixels(image.size) <= options.max_megapixels else size
    if size != image.size:
        image.draft(None, size)
    deep = _deep_color(image)
    loaded: Image.Image = image
    whole, extra = True, False
    try:
        if draft and isinstance(image, JpegImageFile):
            loaded, whole, extra = _judged_jpeg(image, content, size)
        else:
            _read_pixels(image)
    except (OSError, EOFError) as error:
        if not _ends_early(error):
            raise
        loaded, whole = _as_far_as_it_goes(image, content, size, full)
    if not whole and not _most_is_there(loaded):
        raise DecodeError(path, CUT_SHORT)
    if not whole and not options.truncated:
        raise DecodeError(path, MOSTLY_THERE)
    damage = MOSTLY_THERE if not whole else EXTRA_BYTES if extra else ""
    return _Loaded(loaded, deep, _low_bytes(content, deep, options.levels), damage)


def _judged_jpeg(image: JpegImageFile, content: bytes, size: tuple[int, int]) -> tuple[Image.Image, bool, bool]:
    """Load a JPEG at a size, and tell whether all its blocks are there, and whether it has bytes besides."""
    plain = is_plain(content)
    if plain:
        if loads_exactly(image, content):
            return image, True, False
        image = cast(JpegImageFile, _opened(content))
        image.draft(None, size)
    image.load()
    whole = not lacks_blocks(content, size)
    return image, whole, whole and (plain or lacks_scan(content))


def _decoded_size(path: Path, image: ImageFile.ImageFile, scale: int, max_megapixels: float) -> tuple[int, int]:
    """Return the (width, height) at which an image is decoded, JPEG shrunk by `scale` or what the limit needs.

    Raises:
        DecodeError: It has too many pixels.
    """
    size = image.size
    if isinstance(image, JpegImageFile):
        while scale < 8 and megapixels(image.size) / scale**2 > max_megapixels:
            scale *= 2
        size = max(1, image.width // scale), max(1, image.height // scale)
    # A progressive JPEG takes the memory of its full size at any scale
    count = megapixels(image.size if "progressive" in image.info else size)
    if count > max_megapixels:
        raise DecodeError(
            path,
            f"{count:.0f} megapixels, more than data.max_megapixels={max_megapixels:g}, which is for decompression "
            f"bombs: data.max_megapixels={ceil(count)} reads it",
        )
    return size


def _read_pixels(image: ImageFile.ImageFile) -> None:
    """Load an image of any size."""
    try:
        image.load()
    except Image.DecompressionBombError:
        if not isinstance(image, TiffImageFile):
            raise
        # Pillow asks for its limit once more while it makes room for the pixels
        image.im = Image.new(image.mode, image._tile_size, None).im
        image.load()


def megapixels(size: tuple[int, int]) -> float:
    """Return the number of pixels of a (width, height) in 10^6."""
    return size[0] * size[1] / 1e6


def _opened(content: bytes) -> ImageFile.ImageFile:
    """Open an image of any size, and HEIC where pillow-heif is installed; reads little more than the header."""
    if is_heic(content):
        try:
            from pillow_heif import HeifImageFile
        except ImportError:
            raise UnidentifiedImageError from None
        return HeifImageFile(io.BytesIO(content))
    try:
        image = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError:
        # Pillow's limit is one for the whole process, and not ours to change
        for factory, accepts in Image.OPEN.values():
            if accepts is not None and accepts(content[:16]) is True:
                return factory(io.BytesIO(content), "")
        raise
    if isinstance(image, TiffImageFile):
        # libtiff unpacks gray in this machine's byte order, of which Pillow knows for unsigned samples only
        image.tile = [
            _with_rawmode(tile, lambda raw: re.sub(r"B(?=[SF]$)", "N", raw))
            if tile.codec_name == "libtiff"
            else tile
            for tile in image.tile
        ]
    return image


def _tags_of_planes(content: bytes) -> ImageFileDirectory_v2 | None:
    """Return the tags of a TIFF with a plane per band, of which Pillow reads few, some wrong; of others None."""
    with suppress(Exception):  # tags of any type and length
        if content.startswith(TIFF):
            tags = tiff_tags(content)
            whole = {*tags[BITS]} in ({8}, {16}) and tags[PHOTOMETRIC] != OF_YCBCR  # not halved as colors may be
            whole = whole and tags[PHOTOMETRIC] != OF_PALETTE  # which is of one plane
            return tags if tags.get(PLANES) == 2 and whole else None
    return None


def _without_text(png: bytes) -> bytes:
    """Return a PNG without text and color profile, for which Pillow has a limit."""
    kept, start = [png[:8]], 8
    while start < len(png):
        stop = start + 12 + int.from_bytes(png[start : start + 4], "big")
        if png[start + 4 : start + 8] not in PNG_TEXT:
            kept.append(png[start:stop])
        start = stop
    return b"".join(kept)


def _ends_early(error: Exception) -> bool:
    return "truncated" in str(error).lower() or isinstance(error, EOFError)


def _as_far_as_it_goes(
    image: ImageFile.ImageFile, content: bytes, size: tuple[int, int], full: tuple[int, int]
) -> tuple[Image.Image, bool]:
    """Return what can be read of an image whose loading ended early, and whether that is all of it.

    libjpeg fills missing blocks with gray once it meets the end marker. What comes in front of the marker is
    skipped if no block is missing, and changes the image otherwise, at `full` size at least.
    """
    if not isinstance(image, JpegImageFile):
        image.tile = []  # the rows so far are in place; nothing else is to be loaded
        return image, False
    scan = content.rstrip(b"\xff")  # half a marker, which with what follows would be one
    whole = [_with_its_end(scan + tail, full).tobytes() for tail in (b"", JUNK)]
    return _with_its_end(content, size), whole[0] == whole[1]


def _with_its_end(content: bytes, size: tuple[int, int]) -> Image.Image:
    """Return a JPEG that lacks its end marker, decoded at a size."""
    image = _opened(content + JPEG_END)
    image.draft(None, size)
    image.load()
    return image


def _most_is_there(image: Image.Image) -> bool:
    """Tell whether at least half of the rows hold more than what stands for missing samples."""
    low, high = (127, 129) if isinstance(image, JpegImageFile) else (0, 0)
    x = np.asarray(image)
    return bool(((x < low) | (x > high)).reshape(len(x), -1).any(1).mean() >= 0.5)


def _scale(size: tuple[int, int], least_side: int | None, exact: bool = True) -> int:
    """Return the factor by which a JPEG of this (width, height) is shrunk while it is decoded; see `decode`."""
    for scale in DCT_SCALES:
        divides = not exact or size[0] % scale == size[1] % scale == 0
        if least_side is not None and min(size) // scale >= least_side and divides:
            return scale
    return 1


def _is_deep_gray(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _gray_samples(image: Image.Image) -> np.ndarray:
    """Return the samples of deep gray, H W; Pillow takes unsigned ones of 32 bits for signed."""
    samples = np.asarray(image)
    unsigned = getattr(image, "tag_v2", {}).get(BITS) == (32,) and _sample_format(image) == UNSIGNED
    return samples.view(np.uint32) if image.mode == "I" and unsigned else samples


def _sample_format(image: Image.Image) -> int:
    """Return how a TIFF's samples are meant; 1, unsigned, where it does not say so, and for other formats."""
    return getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT, (UNSIGNED,))[0]


def _rawmode(tile: Any) -> str:
    """Return how the samples of a part of a file are stored, as Pillow calls it."""
    return str(tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args)


def _with_rawmode(tile: Any, change: Callable[[str], str]) -> Any:
    """Return a part of a file whose samples are to be unpacked in another way."""
    rawmode = change(_rawmode(tile))
    return tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *tile.args[1:]))


def _deep_color(image: ImageFile.ImageFile) -> str:
    """Return the raw mode of an image of 16-bit color (of which Pillow keeps the high bytes), else ""."""
    rawmode = _rawmode(image.tile[0]) if image.tile else ""
    return rawmode if rawmode.startswith(("RGB;16", "RGBX;16", "RGBA;16", "LA;16")) else ""


def _low_bytes(content: bytes, rawmode: str, levels: Levels) -> np.ndarray | None:
    """Return the low bytes of 16-bit color, H W C, if white is lower than 65535; they are the high ones swapped."""
    if not rawmode or levels.integers in (None, (0, 65535)):
        return None
    big = rawmode.endswith("B") or (rawmode.endswith("N") and sys.byteorder == "big")
    end = "L" if big else "B"
    image = _opened(content)
    image.tile = [
        _with_rawmode(tile, lambda raw: "RGBA" if raw == "LA;16B" else raw[:-1] + end) for tile in image.tile
    ]
    with suppress(OSError, EOFError):  # cut short, as the high bytes are
        _read_pixels(image)
    image.tile = []
    low = np.asarray(image)
    return low[..., [1, 1, 1, 3]] if rawmode == "LA;16B" else low


def _with_joined_planes(content: bytes, tags: ImageFileDirectory_v2) -> bytes:
    """Return a TIFF with a plane per band as one whose bands lie together, unpacked.

    Bands beyond those of RGB are left out, unless there is alpha among them.

    Args:
        content: Bytes of the file; none make a file without pixels.
        tags: Its tags.
    """
    kept = {
        tag: tags[tag] for tag in (*SIZE, BITS, SAMPLES, PHOTOMETRIC, SAMPLE_FORMAT, ORIENTATION) if tag in tags
    }
    if tags[PHOTOMETRIC] == OF_RGB and not any(tags.get(EXTRA_SAMPLES, ())):
        kept |= {SAMPLES: 3, BITS: 3 * tags[BITS][:1]}
    elif EXTRA_SAMPLES in tags:
        kept[EXTRA_SAMPLES] = tags[EXTRA_SAMPLES]
    bands = []
    for band in range(kept.get(SAMPLES, 1) if content else 0):
        plane = _opened(_plane(content, tags, band))
        _read_pixels(plane)
        bands.append(np.asarray(plane))
    dtype = f"{'>' if tags.prefix == b'MM' else '<'}u{tags[BITS][0] // 8}"
    pixels = np.stack(bands, axis=2).astype(dtype).tobytes() if bands else b""
    return _tiff(tags, {**kept, ROWS: tags[SIZE[1]]}, STRIPS, [pixels])


def _plane(content: bytes, tags: ImageFileDirectory_v2, band: int) -> bytes:
    """Return a TIFF with a plane per band as a gray one of a single plane."""
    places = TILES if TILES[0] in tags else STRIPS
    offsets, sizes = (tags[tag] for tag in places)
    each = len(offsets) // tags.get(SAMPLES, 1)
    mine = slice(band * each, (band + 1) * each)
    pieces = [content[place : place + size] for place, size in zip(offsets[mine], sizes[mine], strict=True)]
    kept = {tag: tags[tag] for tag in (*SIZE, *PACKING) if tag in tags}
    own = {BITS: tags[BITS][0], SAMPLES: 1, PHOTOMETRIC: BLACK_IS_ZERO}
    return _tiff(tags, {**kept, **own}, places, pieces)


def _tiff(
    like: ImageFileDirectory_v2, tags: Mapping[int, Any], places: tuple[int, int], pieces: Sequence[bytes]
) -> bytes:
    """Return a TIFF.

    Args:
        like: Tags of another one in the same byte order.
        tags: Its tags, besides those of the pieces.
        places: `STRIPS` or `TILES`, whichever the pieces are.
        pieces: What they hold.
    """
    offsets, sizes = places
    start = like.prefix + (b"\0*\0\0\0\x08" if like.prefix == b"MM" else b"*\0\x08\0\0\0")
    own = ImageFileDirectory_v2(start)
    for tag, value in {**tags, sizes: tuple(map(len, pieces))}.items():
        own[tag] = value
    at = [*accumulate(map(len, pieces), initial=0)][:-1]
    own.tagtype[offsets], own[offsets] = TiffTags.LONG, tuple(at)
    if offsets == TILES[0]:  # Pillow itself counts strips from the end of the tags
        end = len(start) + len(own.tobytes(len(start)))
        own[offsets] = tuple(place + end for place in at)
    return start + own.tobytes(len(start)) + b"".join(pieces)


def upright_rgb(
    image: Image.Image, levels: Levels = DEFAULTS.levels, low_HWC: np.ndarray | None = None
) -> Image.Image:
    """Convert a loaded image of any mode to upright RGB, transparency on white.

    Args:
        image: The image.
        levels: Black and white of samples of more than 8 bits.
        low_HWC: Low bytes of 16-bit color.
    """
    turned, tags = None, getattr(image, "tag_v2", {})
    with suppress(Exception):  # damaged EXIF data around a good image
        turned = TRANSPOSED.get(image.getexif().get(ORIENTATION, 1))
    if _is_deep_gray(image):
        image = Image.fromarray(levels.to_eight_bits(_gray_samples(image)))
        if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
            image = ImageOps.invert(image)
    elif low_HWC is not None:
        image = _shallow(np.asarray(image), low_HWC, levels)
    if image.mode == "RGBA" and PHOTOMETRIC in tags and EXTRA_SAMPLES not in tags:
        image = image.convert("RGB")  # a fourth band, such as near infrared
    if turned is not None:
        image = image.transpose(turned)
    if image.has_transparency_data:
        # "La" (premultiplied) has no direct way to RGBA
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        hides = not _alpha_says_nothing(rgba)
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba) if hides else rgba
    return image.convert("RGB")


def _shallow(high_HWC: np.ndarray, low_HWC: np.ndarray, levels: Levels) -> Image.Image:
    """Scale 16-bit color, given as bytes, to 8 bits; an alpha channel that uses all bits has its own white."""
    x_HWC = high_HWC.astype(np.uint16) << 8 | low_HWC
    color, alpha = levels.to_eight_bits(x_HWC[..., :3]), x_HWC[..., 3:]
    if not alpha.size:
        return Image.fromarray(color)
    own = levels if levels.integers is not None and alpha.max() <= levels.integers[1] else Levels()
    return Image.fromarray(np.concatenate([color, own.to_eight_bits(alpha)], axis=2))


def _alpha_says_nothing(rgba: Image.Image) -> bool:
    """Tell whether an alpha channel is the same everywhere, or would hide all of a picture."""
    bands: Any = rgba.getextrema()
    *colors, (low, high) = bands
    if high <= 1:
        return any(darkest != brightest for darkest, brightest in colors)
    return low == high
