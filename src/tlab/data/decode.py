"""Decoding of any image file to upright 8-bit RGB."""

import io
import warnings
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

ORIENTATION = 0x0112  # the EXIF tag
SIGNATURES = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM")
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

# These warnings do not name the file; the check of the files (`sources.verify`) does.
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


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


def decode(path: Path, least_side: int | None = None) -> Tensor:
    """Read an image file as a photo viewer would show it.

    The content decides the format, not the extension; of an animation the first frame is taken; EXIF
    orientation is applied; transparency is laid on white; 16-bit samples lose their low byte.

    A large JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, if both sides are divisible by that number
    (else the pixels would shift) and the shorter one keeps `least_side` pixels. With `least_side` twice the
    side that the image is resized to afterwards, the result differs from that of the full size by less than 1 gray
    level in the mean and by 10 at most.

    Args:
        path: Path of the file.
        least_side: Pixels that the shorter side must keep; None decodes at full size.

    Returns:
        The image: `3 H W`, uint8, RGB, in H W C memory layout, which is fastest for torchvision's uint8 resize.

    Raises:
        DecodeError: The file cannot be read; `reason` says why.
    """
    content = read_bytes(path)
    x_HWC = _plain_jpeg(content, least_side)
    if x_HWC is None:
        x_HWC = np.array(decode_bytes(path, content, least_side=least_side))
    return torch.from_numpy(x_HWC).permute(2, 0, 1)


def _plain_jpeg(content: bytes, least_side: int | None) -> np.ndarray | None:
    """Decode an upright RGB JPEG with OpenCV: H W 3, uint8; None for anything else, and if it looks damaged.

    OpenCV uses the same library as Pillow, with the same pixels, and copies them less often.
    """
    if not content.startswith(JPEG_START) or not content.endswith(JPEG_END):
        return None
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:  # reads the header only
            plain = image.format == "JPEG" and image.mode == "RGB"
            if not plain or ({"exif", "xmp"} & image.info.keys() and image.getexif().get(ORIENTATION, 1) != 1):
                return None
            scale = image.width // _scaled(image.size, least_side)[0]
        return cv2.imdecode(np.frombuffer(content, np.uint8), CV2_COLOR | CV2_SCALES[scale])
    except Exception:  # Pillow then says what is wrong
        return None


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, or raise a `DecodeError` that says why not."""
    try:
        return path.read_bytes()
    except OSError as error:
        known = {FileNotFoundError: "no such file", PermissionError: "no permission to read it"}
        reason = known.get(type(error), f"cannot be read ({error.strerror or error})")
        raise DecodeError(path, reason) from None


def decode_bytes(path: Path, content: bytes, draft: bool = False, least_side: int | None = None) -> Image.Image:
    """Decode the content of an image file.

    Args:
        path: Path of the file, for the error.
        content: Bytes of the file.
        draft: Decode JPEG at an eighth of the size, which reads all of the data in a fraction of the time.
        least_side: Pixels that the shorter side must keep, see `decode`.

    Returns:
        An upright image in mode RGB, with the `format` of the file.

    Raises:
        DecodeError: `content` is not an image, or damaged.
    """
    if not content:
        raise DecodeError(path, "empty file")
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.draft(None, (1, 1) if draft else _scaled(image.size, least_side))
            image.load()
            upright = _upright_rgb(image)
            upright.format = image.format
            return upright
    except UnidentifiedImageError:
        raise DecodeError(path, _what_it_is(content)) from None
    except Image.DecompressionBombError:
        raise DecodeError(path, "decompression bomb (far more pixels than a photograph)") from None
    except MemoryError:
        raise DecodeError(path, "too large for this machine's memory") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        if "truncated" in str(error).lower() or isinstance(error, EOFError):
            raise DecodeError(path, "truncated (the file ends too early)") from None
        raise DecodeError(path, f"damaged image ({error or type(error).__name__})") from None


def _scaled(size: tuple[int, int], least_side: int | None) -> tuple[int, int]:
    """Return the (width, height) at which a JPEG of this size is decoded."""
    for scale in DCT_SCALES:
        if least_side is not None and min(size) // scale >= least_side and size[0] % scale == size[1] % scale == 0:
            return size[0] // scale, size[1] // scale
    return size


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image of any mode to upright RGB, transparency on white."""
    with suppress(Exception):  # damaged EXIF data around a good image
        if image.getexif().get(ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_eight_bit(np.asarray(image), image.mode))
    if image.has_transparency_data:
        # "La" (premultiplied) has no direct way to RGBA
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def _eight_bit(pixels: np.ndarray, mode: str) -> np.ndarray:
    """Scale H W samples of more than 8 bits to uint8.

    16-bit samples keep their high byte, as in Pillow's 16-bit RGB. For 32 bits a file does not say what white is,
    so the first usual range that holds all values is assumed (floats: 0..1, 0..255; both: 0..65535); otherwise the
    values are stretched from their minimum to their maximum.
    """
    if mode.startswith("I;16"):
        return (pixels >> 8).astype(np.uint8)
    values = np.nan_to_num(pixels.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if mode == "F" and low >= 0 and high <= 1:
        scaled = np.rint(values * 255)
    elif mode == "F" and low >= 0 and high <= 255:
        scaled = np.rint(values)
    elif low >= 0 and high <= 65535:
        scaled = np.floor(values / 256)
    else:
        scaled = np.rint((values - low) * (255 / max(high - low, 1e-12)))
    return scaled.astype(np.uint8)


def _what_it_is(content: bytes) -> str:
    start = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<html" in start or start.startswith(b"<!doctype html"):
        return "a web page (HTML), not an image"
    if b"<svg" in start:
        return "an SVG drawing, which holds no pixels"
    if content.startswith(SIGNATURES):
        return "truncated or damaged at its beginning"
    return "not an image"
