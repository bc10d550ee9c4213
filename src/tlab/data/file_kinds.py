"""What a file that is no readable image is, by its content."""

import io

from PIL import TiffImagePlugin

IMAGES = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM", b"8BPS")
CAMERA_RAW = "a camera's raw file: export it as JPEG or PNG"
JPEG_XL = "JPEG XL, which tlab cannot read: convert it to PNG or JPEG"
DAMAGED = "truncated or damaged at its beginning"
BEGINNINGS = {
    b"PK\x03\x04": "a ZIP archive: unpack it",
    b"\x1f\x8b": "a gzip archive: unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it",
    b"Rar!": "a RAR archive: unpack it",
    b"%PDF": "a PDF document: export its pages as PNG",
    b"\xff\x0a": JPEG_XL,
    b"\0\0\0\x0cJXL ": JPEG_XL,
    b"\x1a\x45\xdf\xa3": "a video (Matroska or WebM), of which no frame is taken",
    b"\0\0\x01\xba": "a video (MPEG), of which no frame is taken",
    b"\x93NUMPY": "a NumPy array: save it as PNG",
    b"#?RADIANCE": "a Radiance HDR picture, which tlab cannot read: convert it to PNG",
    b"v/1\x01": "an OpenEXR picture, which tlab cannot read: convert it to PNG",
    b"PF\n": "a PFM picture of color, which tlab cannot read: convert it to PNG",
    b"\x89HDF": "HDF5 data: save the images as PNG",
    b"FUJIFILMCCD-RAW": CAMERA_RAW,
    b"IIRO": CAMERA_RAW,
    b"IIU\0": CAMERA_RAW,
    b"version https://git-lfs": "a Git LFS pointer instead of the image: run git lfs pull",
}
# Brands of files in ISO's base media format (ISO/IEC 14496-12)
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"heif")
AVIF = (b"avif", b"avis")
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SUBFILE_TYPE, COMPRESSION, SUB_IFDS, DNG_VERSION = 254, 259, 330, 50706  # TIFF tags
BITS, SAMPLES, PLANES, SAMPLE_FORMAT = 258, 277, 284, 339
SAMPLE_KINDS = {2: " (signed)", 3: " (floats)", 5: " (complex)", 6: " (complex)"}  # by sample format
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers in a JPEG (ITU-T T.81, table B.1; T.87)
LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF, 0xF7)


def is_heic(content: bytes) -> bool:
    """Tell whether a file is HEIC (or another kind of HEIF that is not AVIF)."""
    brands = _brands(content)
    return any(brand in HEIC for brand in brands) and not any(brand in AVIF for brand in brands)


def is_camera_raw(tags: TiffImagePlugin.ImageFileDirectory_v2, content: bytes) -> bool:
    """Tell whether a TIFF is a camera's raw file, whose first image is only a thumbnail.

    Args:
        tags: The tags of its first image.
        content: The file's bytes.
    """
    thumbnail = SUB_IFDS in tags and tags.get(SUBFILE_TYPE) == 1
    return content[8:10] == b"CR" or DNG_VERSION in tags or thumbnail


def kind_of(content: bytes) -> str:
    """Say in plain words what a file is that no decoder takes for an image, and what to do."""
    for beginning, kind in BEGINNINGS.items():
        if content.startswith(beginning):
            return kind
    if content[128:132] == b"DICM":
        return "DICOM, which tlab cannot read: convert it to 16-bit PNG"
    if content[257:262] == b"ustar":
        return "a tar archive: unpack it"
    if brands := _brands(content):
        return _of_media(brands)
    if content.startswith(b"RIFF") and content[8:12] in (b"AVI ", b"WAVE"):
        return "a video (AVI), of which no frame is taken" if content[8:12] == b"AVI " else "sound (WAVE), no image"
    if content.startswith(TIFF):
        return _of_tiff(content)
    if content.startswith(b"\xff\xd8"):
        return _of_jpeg(content)
    if content.startswith(b"8BPS") and (bits := int.from_bytes(content[22:24], "big")) in (16, 32):
        return f"a Photoshop file of {bits} bits, which tlab cannot read: export it as PNG"
    if content.startswith(IMAGES):
        return DAMAGED
    return _of_text(content)


def _brands(content: bytes) -> list[bytes]:
    """Return the brands of a file in ISO's base media format, the major one first; empty for any other."""
    if content[4:8] != b"ftyp":
        return []
    length = min(int.from_bytes(content[:4], "big"), 256)
    return [content[8:12], *(content[start : start + 4] for start in range(16, length, 4))]


def _of_media(brands: list[bytes]) -> str:
    if brands[0] == b"crx ":
        return CAMERA_RAW
    if any(brand in AVIF for brand in brands):
        return "AVIF, damaged or not supported by this Pillow: pip install 'pillow>=11.3'"
    if any(brand in HEIC for brand in brands):
        return "HEIC, which needs pillow-heif: pip install pillow-heif"
    return "a video (MP4 or QuickTime), of which no frame is taken"


def tiff_tags(content: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Return the tags of the first image in a TIFF; raises nearly anything for a damaged one."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(content[: 16 if content[2:4] in (b"+\0", b"\0+") else 8])
    file = io.BytesIO(content)
    file.seek(tags.next)
    tags.load(file)
    return tags


def _of_tiff(content: bytes) -> str:
    if content.startswith(b"MM\0+"):  # of whose tags Pillow knows nothing
        return "a BigTIFF of big-endian byte order, which tlab cannot read: convert it to PNG"
    try:
        tags = tiff_tags(content)
        if is_camera_raw(tags, content):
            return CAMERA_RAW
        bands, bits, compression = int(tags.get(SAMPLES, 1)), int(tags.get(BITS, (1,))[0]), tags.get(COMPRESSION, 1)
        samples = f"{bits} bits{SAMPLE_KINDS.get(tags.get(SAMPLE_FORMAT, (1,))[0], '')}"
    except Exception:  # tags of any type and length
        return DAMAGED
    if not len(tags):
        return DAMAGED
    of = f"{bands} bands of {samples}" if bands > 1 else f"one band of {samples}"
    advice = "choose three bands" if bands > 3 else "convert it to PNG"
    packed = f" with compression {compression}" if bands in (1, 3) and compression != 1 else ""
    return f"a TIFF of {of}{packed}, which tlab cannot read: {advice}"


def _of_jpeg(content: bytes) -> str:
    place = 2
    while content[place : place + 1] == b"\xff" and len(content) > place + 4:
        marker, bits = content[place + 1], content[place + 4]
        if marker in FRAMES:
            kind = "lossless JPEG" if marker in LOSSLESS else "JPEG"
            known = kind == "JPEG" and bits == 8
            return DAMAGED if known else f"a {kind} of {bits} bits, which tlab cannot read: convert it to PNG"
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return DAMAGED


def _of_text(content: bytes) -> str:
    start = content[:1024]
    for byte, name in ((b"\0", "zero"), (b"\xff", "0xff")):
        if not start.strip(byte):
            return f"nothing but {name} bytes, as after an interrupted copy, not an image"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<html" in text or text.startswith(b"<!doctype html"):
        return "a web page (HTML), not an image"
    if b"<svg" in text:
        return "an SVG drawing, which holds no pixels"
    if text.startswith((b"{", b"[")):
        return "text (JSON, perhaps a server's answer), not an image"
    if text.startswith(b"<?xml") or text.startswith(b"<error"):
        return "text (XML, perhaps a server's answer), not an image"
    return "text, not an image" if b"\0" not in start and _is_text(start) else "not an image"


def _is_text(start: bytes) -> bool:
    start = start[:256]
    mostly = 2 * len(start.decode(errors="ignore").encode()) > len(start)
    return mostly and all(byte >= 32 or byte in b"\t\r\n\f\x1b" for byte in start)
