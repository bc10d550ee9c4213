import io
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from pictures import jpeg, picture, png_bomb
from PIL import Image, PngImagePlugin

from tlab.data.decode import DecodeError, decode
from tlab.data.decode_options import DecodeOptions, Levels, SampleRange, beyond_levels, choose_levels, level_remarks
from tlab.data.sources.verify import examine

RGB = np.asarray(picture(1))  # 30 x 40


def pixels(path):
    x = decode(path)
    assert x.dtype == torch.uint8
    assert x.ndim == 3
    assert x.shape[0] == 3
    return x.permute(1, 2, 0).numpy().astype(int)


def gray(x):
    """The three channels are one."""
    assert (x == x[..., :1]).all()
    return x[..., 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = np.zeros((4, 6, 3), np.uint8)
    upright[:2, :3], upright[:2, 3:], upright[2:, :3] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    # How a camera would have stored it (EXIF 2.3, tag 0x0112)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "x.png", exif=exif)
    assert (pixels(tmp_path / "x.png") == upright).all()
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "x.tif", exif=exif)
    assert (pixels(tmp_path / "x.tif") == upright).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_gray_of_8_and_16_bits(tmp_path, suffix):
    values = np.arange(0, 256, dtype=np.uint8).reshape(8, 32)
    Image.fromarray(values).save(tmp_path / f"8.{suffix}")
    assert (gray(pixels(tmp_path / f"8.{suffix}")) == values).all()
    Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / f"16.{suffix}")
    assert (gray(pixels(tmp_path / f"16.{suffix}")) == values).all()


def test_16_bit_pgm_and_32_bit_integers(tmp_path):
    values = np.arange(0, 256, dtype=np.uint8).reshape(8, 32)
    (tmp_path / "x.pgm").write_bytes(b"P5 32 8 65535\n" + (values.astype(">u2") * 257).tobytes())
    assert (gray(pixels(tmp_path / "x.pgm")) == values).all()
    Image.fromarray(values.astype(np.int32) * 257).save(tmp_path / "x.tif")
    assert (gray(pixels(tmp_path / "x.tif")) == values).all()


def png(x_HWC):
    """A PNG of 16 bits: gray, gray and alpha, RGB or RGBA."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, bands = x_HWC.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in x_HWC)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def tiff(x_HWC, extra=(), photometric=2, planar=False, packed=False, order="<"):
    """A TIFF whose bands after the third are `extra` (2: alpha, 1: premultiplied, 0: not said)."""
    height, width, bands = x_HWC.shape
    x = x_HWC.astype(x_HWC.dtype.newbyteorder(order))
    raw = (x.transpose(2, 0, 1) if planar else x).tobytes()
    strips = bands if planar else 1
    size = len(raw) // strips
    pieces = [raw[k * size : (k + 1) * size] for k in range(strips)]
    pieces = [zlib.compress(piece) for piece in pieces] if packed else pieces
    raw, sizes = b"".join(pieces), [*map(len, pieces)]
    tags = {256: [width], 257: [height], 258: [8 * x_HWC.itemsize] * bands, 259: [8 if packed else 1]}
    tags |= {262: [photometric], 273: [8 + sum(sizes[:k]) for k in range(strips)], 277: [bands], 278: [height]}
    tags |= {279: sizes}
    tags |= {284: [1 + planar]} | ({338: list(extra)} if extra else {})
    tags |= {339: [{"u": 1, "i": 2, "f": 3}[x.dtype.kind]] * bands}
    entries, tail, place = b"", b"", 8 + len(raw) + 6 + 12 * len(tags)
    for tag, values in tags.items():
        packed = struct.pack(f"{order}{len(values)}I", *values)
        entries += struct.pack(f"{order}HHI", tag, 4, len(values))
        entries += packed if len(packed) == 4 else struct.pack(f"{order}I", place + len(tail))
        tail += packed if len(packed) > 4 else b""
    ifd = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(raw)) + raw + ifd + tail


def test_16_bit_rgb_png(tmp_path):
    (tmp_path / "x.png").write_bytes(png(RGB.astype(np.uint16) * 257))
    assert (pixels(tmp_path / "x.png") == RGB).all()


TWELVE_BITS = DecodeOptions(Levels(integers=(0, 4095)))
DEEP = np.random.default_rng(0).integers(0, 4096, (5, 7, 4)).astype(np.uint16)


@pytest.mark.parametrize(
    ("content", "bands"),
    [
        (png(DEEP[..., :1]), [0, 0, 0]),
        (png(DEEP[..., :3]), [0, 1, 2]),
        (tiff(DEEP[..., :1], photometric=1), [0, 0, 0]),
        (tiff(DEEP[..., :3]), [0, 1, 2]),
        (tiff(DEEP[..., :3], planar=True), [0, 1, 2]),
        (tiff(DEEP[..., :3], planar=True, packed=True), [0, 1, 2]),
        (tiff(DEEP[..., :1], photometric=1, planar=True), [0, 0, 0]),
        (tiff(DEEP, planar=True), [0, 1, 2]),
        (tiff(DEEP, planar=True, packed=True), [0, 1, 2]),
        (tiff(DEEP, planar=True, packed=True, order=">"), [0, 1, 2]),
        (tiff(DEEP, extra=[0], planar=True), [0, 1, 2]),
        (tiff(DEEP[..., [0, 1, 2, 3, 3]], extra=[0, 0], planar=True, packed=True), [0, 1, 2]),
        (tiff(DEEP, extra=[0]), [0, 1, 2]),
        (tiff(DEEP), [0, 1, 2]),
        (b"P5 7 5 4095\n" + DEEP[..., 0].astype(">u2").tobytes(), None),
    ],
)
def test_12_bits_in_16_keep_their_high_bits(tmp_path, content, bands):
    (tmp_path / "x.png").write_bytes(content)
    options = TWELVE_BITS
    if bands is None:  # the file itself says how many bits it has
        bands, options = [0, 0, 0], DecodeOptions()
    x = decode(tmp_path / "x.png", options=options).permute(1, 2, 0).numpy()
    assert np.abs(x.astype(int) - (DEEP[..., bands] >> 4)).max() <= (content[:2] == b"P5")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("extra", [(), (0,), (2,)])
def test_planes_are_those_of_bands_that_lie_together(tmp_path, extra, packed):
    for photometric, x in ((2, DEEP), (5, DEEP), (1, DEEP[..., :2])):
        if photometric == 5 and extra:
            continue
        for dtype in (np.uint8, np.uint16):
            found = []
            for planar in (False, True):
                content = tiff(x.astype(dtype), extra, photometric, planar, packed and planar)
                (tmp_path / "x.tif").write_bytes(content)
                try:
                    found.append(decode(tmp_path / "x.tif", options=TWELVE_BITS).tolist())
                except DecodeError as error:
                    found.append(error.reason.partition(" with")[0].partition(",")[0])
            assert found[0] == found[1]


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<i4", ">i4", "<f4", ">f4", ">u2"])
def test_packed_gray_of_either_byte_order(tmp_path, dtype):
    x = DEEP[..., :1].astype(dtype)
    (tmp_path / "x.tif").write_bytes(tiff(x, photometric=1, packed=True, order=dtype[0]))
    levels = Levels(integers=(0, 4095), floats=(0, 4095))
    seen = decode(tmp_path / "x.tif", options=DecodeOptions(levels)).numpy()[0]
    assert np.abs(seen - x[..., 0] / 4095 * 255).max() <= 1


@pytest.mark.parametrize("white", [4095, 65535])
@pytest.mark.parametrize("bands", [2, 4])
def test_alpha_of_16_bits(tmp_path, bands, white):
    x = DEEP[:, :, :bands].copy()
    x[..., -1] = 0
    x[:, :3, -1] = white
    (tmp_path / "x.png").write_bytes(png(x))
    seen = decode(tmp_path / "x.png", options=TWELVE_BITS).permute(1, 2, 0).numpy()
    assert (seen[:, :3] == x[:, :3, [0] * 3 if bands == 2 else [0, 1, 2]] >> 4).all()
    assert (seen[:, 3:] == 255).all()


@pytest.mark.parametrize(
    ("kind", "dtype", "low", "high"),
    [
        ("integers", np.int32, -1024, 3071),
        ("floats", np.float32, -1, 3),
        ("integers", np.uint32, 0, 2**32 - 1),
        ("floats", np.float32, 0, 1.3),
        ("floats", np.float32, -30, -2),  # radar in decibels
    ],
)
def test_samples_of_any_range_are_scaled_by_that_of_the_set(tmp_path, kind, dtype, low, high):
    """A dim image of a set stays dim."""
    whole = np.linspace(low, high, 256).reshape(16, 16).astype(dtype)
    levels = choose_levels([SampleRange(kind, low, high), SampleRange(kind, low, low)], None)
    for name, x in (("whole", whole), ("dim", whole[:8])):
        (tmp_path / f"{name}.tif").write_bytes(tiff(x[..., None], photometric=1)) if dtype == np.uint32 else (
            Image.fromarray(x).save(tmp_path / f"{name}.tif")
        )
    x, dim = (decode(tmp_path / f"{name}.tif", options=DecodeOptions(levels))[0] for name in ("whole", "dim"))
    assert np.abs(x.numpy().reshape(-1).astype(int) - np.arange(256)).max() <= 1
    assert (dim == x[:8]).all()


@pytest.mark.parametrize(
    ("found", "bits", "white"),
    [
        ([("integers", 900, 1724)], None, 4095),
        ([("integers", 0, 1000), ("integers", 0, 65535)], None, 65535),
        ([("integers", 0, 40)], None, 255),
        ([("integers", 0, 1724)], 16, 65535),
        ([("integers", 0, 65535)], 12, 4095),
        ([("floats", 0, 0.9)], 12, 1),
        ([("floats", 0, 200)], None, 255),
        ([("floats", 0, 3000)], None, 4095),
        ([*[("integers", 0, 1875)] * 39, ("integers", 0, 65535)], None, 4095),  # a burnt-in bar
        ([*[("integers", 0, 1875)] * 39, ("integers", 0, 65535)], 16, 65535),
        ([*[("integers", 0, 1875)] * 36, *[("integers", 0, 65535)] * 4], None, 65535),
        ([*[("integers", 0, 50)] * 94, *[("integers", 0, 900)] * 5, ("integers", 0, 65535)], None, 1023),
        ([*[("floats", 0, 0.9)] * 39, ("floats", 0, 1e6)], None, 1),
    ],
)
def test_white_of_a_set(found, bits, white):
    levels = choose_levels([SampleRange(*each) for each in found], bits)
    assert getattr(levels, found[0][0]) == (0, white)


def test_what_is_cut_off_is_said_with_its_count():
    ranges = [
        *[SampleRange("integers", 9, 1875)] * 38,
        *[SampleRange("integers", 0, high) for high in (2000, 65535)],
    ]
    levels = choose_levels(ranges, None)
    (remark,) = level_remarks(ranges, levels)
    assert "1 of them" in remark
    assert "data.bits=16" in remark
    assert not beyond_levels(ranges[:-1], levels)
    assert beyond_levels(ranges, levels)[0].startswith("1 of 40 images")
    assert not beyond_levels(ranges, Levels())


@pytest.mark.parametrize("hole", [-9999, -32768, np.finfo(np.float32).min])
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_for_no_data_do_not_set_black(tmp_path, dtype, hole):
    if dtype == np.int32 and hole < -32768:
        return
    values = np.linspace(100, 3000, 64).reshape(8, 8).astype(dtype)
    values[0, :2] = hole
    Image.fromarray(values).save(tmp_path / "x.tif")
    found = examine(tmp_path / "x.tif").samples
    assert found.low > 100
    x = decode(tmp_path / "x.tif", options=DecodeOptions(choose_levels([found], None)))[0]
    assert (x[0, :2] == 0).all()
    assert x.max() > 150


def test_white_is_zero(tmp_path):
    """As in radiographs that are stored as negatives."""
    for dtype in (np.uint8, np.uint16):
        x = (RGB[..., :1].astype(dtype)) * (257 if dtype == np.uint16 else 1)
        (tmp_path / "x.tif").write_bytes(tiff(x, photometric=0))
        assert (gray(pixels(tmp_path / "x.tif")) == 255 - RGB[..., 0]).all()


@pytest.mark.parametrize("scale", [1 / 255, 1.0, 256.0])
def test_float_tiff(tmp_path, scale):
    values = np.arange(0, 256, dtype=np.float32).reshape(8, 32)
    Image.fromarray(values * np.float32(scale)).save(tmp_path / "x.tif")
    assert (gray(pixels(tmp_path / "x.tif")) == values).all()


def test_float_tiff_of_any_range_with_holes(tmp_path):
    values = np.linspace(-3, 5, 64, dtype=np.float32).reshape(8, 8)
    values[0, 1] = np.nan
    Image.fromarray(values).save(tmp_path / "x.tif")
    x = gray(pixels(tmp_path / "x.tif"))
    assert (x[0, 0], x[-1, -1]) == (0, 255)


def test_one_bit(tmp_path):
    Image.fromarray(RGB).convert("1").save(tmp_path / "x.png")
    assert set(np.unique(gray(pixels(tmp_path / "x.png")))) == {0, 255}


def test_palette(tmp_path):
    image = Image.fromarray(RGB).quantize(16)
    image.save(tmp_path / "x.png")
    assert (pixels(tmp_path / "x.png") == np.asarray(image.convert("RGB"))).all()
    image.save(tmp_path / "clear.png", transparency=int(np.asarray(image)[0, 0]))
    expected = np.asarray(image.convert("RGB")).copy()
    expected[np.asarray(image) == np.asarray(image)[0, 0]] = 255
    assert (pixels(tmp_path / "clear.png") == expected).all()


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_transparency_is_laid_on_white(tmp_path, suffix):
    image = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    image.putpixel((2, 0), (255, 0, 0, 128))
    image.save(tmp_path / f"x.{suffix}", lossless=True)
    x = pixels(tmp_path / f"x.{suffix}")[0]
    assert np.abs(x - [[255, 0, 0], [255, 255, 255], [255, 127, 127]]).max() <= 1


def test_gray_with_alpha_and_with_a_transparent_gray(tmp_path):
    image = Image.new("LA", (2, 1), (10, 255))
    image.putpixel((1, 0), (10, 0))
    image.save(tmp_path / "la.png")
    assert gray(pixels(tmp_path / "la.png")).tolist() == [[10, 255]]
    flat = Image.new("L", (2, 1), 10)
    flat.putpixel((1, 0), 77)
    flat.save(tmp_path / "l.png", transparency=77)
    assert gray(pixels(tmp_path / "l.png")).tolist() == [[10, 255]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("alpha", [0, 1, 128, "mask"])
def test_alpha_that_is_no_transparency(tmp_path, suffix, alpha):
    """A channel that would hide all of a picture, or is the same everywhere."""
    layer = Image.new("L", (40, 30), 0 if alpha == "mask" else alpha)
    if alpha == "mask":
        layer.paste(1, (5, 5, 20, 20))  # classes 0 and 1
    image = Image.fromarray(RGB)
    image.putalpha(layer)
    image.save(tmp_path / f"x.{suffix}")
    assert (pixels(tmp_path / f"x.{suffix}") == RGB).all()


def test_one_clear_color_is_white(tmp_path):
    """Such as an empty tile of a map, of which others are drawn in part."""
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "x.png")
    assert (pixels(tmp_path / "x.png") == 255).all()


@pytest.mark.parametrize(("extra", "clear"), [([0], False), ([], False), ([2], True), ([0, 0], False)])
def test_a_fourth_band_is_alpha_only_where_the_file_says_so(tmp_path, extra, clear):
    more = np.random.default_rng(0).integers(0, 256, (30, 40, max(1, len(extra))), np.uint8)
    (tmp_path / "x.tif").write_bytes(tiff(np.concatenate([RGB, more], axis=2), extra))
    assert (pixels(tmp_path / "x.tif") == RGB).all() == (not clear)


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red ink
    image.save(tmp_path / "x.tif")
    assert (pixels(tmp_path / "x.tif") == [255, 0, 0]).all()
    # Pillow writes and marks CMYK JPEG as Adobe does, inverted
    image.save(tmp_path / "x.jpg", quality=100)
    assert b"Adobe" in (tmp_path / "x.jpg").read_bytes()
    assert np.abs(pixels(tmp_path / "x.jpg") - [255, 0, 0]).max() <= 3


def test_ycbcr_and_lab(tmp_path):
    Image.fromarray(RGB).convert("YCbCr").save(tmp_path / "x.tif")
    assert np.abs(pixels(tmp_path / "x.tif") - RGB).max() <= 6
    Image.new("LAB", (4, 4), (255, 128, 128)).save(tmp_path / "white.tif")
    assert (pixels(tmp_path / "white.tif") >= 253).all()


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animations_give_their_first_frame(tmp_path, suffix):
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    first.save(tmp_path / f"x.{suffix}", save_all=True, append_images=[second], lossless=True)
    assert np.abs(pixels(tmp_path / f"x.{suffix}") - [255, 0, 0]).max() <= 2


def test_content_decides_not_the_extension(tmp_path):
    (tmp_path / "x.png").write_bytes(jpeg(1))
    (tmp_path / "x.jpg").write_bytes(jpeg(1))
    assert (pixels(tmp_path / "x.png") == pixels(tmp_path / "x.jpg")).all()


@pytest.mark.parametrize("size", [(1, 1), (3000, 1), (1, 3000)])
def test_one_pixel_and_thin(tmp_path, size):
    Image.new("RGB", size, (1, 2, 3)).save(tmp_path / "x.png")
    x = pixels(tmp_path / "x.png")
    assert x.shape == (size[1], size[0], 3)
    assert (x == [1, 2, 3]).all()


def test_names_beyond_ascii(tmp_path):
    path = tmp_path / "größe 大 🐕.png"
    Image.fromarray(RGB).save(path)
    assert (pixels(path) == RGB).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_hide_the_picture(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert pixels(tmp_path / "x.jpg").shape == (30, 40, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (jpeg(1)[:-300], "truncated"),
        (b"\n<HTML><title>404</title>", "a web page (HTML), not an image"),
        (b'<?xml version="1.0"?><svg xmlns="x"/>', "SVG"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
        (b'{"error": "quota exceeded"}', "JSON"),
        (b"hello", "text, not an image"),
        (bytes(range(256)), "not an image"),
        (b"\xff" * 500, "0xff bytes"),
        (
            b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 4, 4, 16, 3) + bytes(200),
            "a Photoshop file of 16 bits",
        ),
        (jpeg(1).replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"), "a JPEG of 12 bits"),
        (jpeg(1).replace(b"\xff\xc0\0\x11", b"\xff\xc3\0\x11"), "a lossless JPEG of 8 bits"),
        (b"\x89PNG\r\n\x1a\n", "truncated or damaged"),
        (b"II*\0", "truncated or damaged"),
        (png_bomb(), "data.max_megapixels=900"),
        (bytes(5000), "zero bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (b"PK\3\4" + bytes(50), "ZIP"),
        (b"\x1f\x8b\x08" + bytes(50), "gzip"),
        (b"%PDF-1.7\n", "PDF"),
        (bytes(128) + b"DICM" + bytes(50), "DICOM"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\x0a" + bytes(50), "JPEG XL"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(50), "video"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "video"),
        (b"RIFF\0\0\0\0AVI LIST", "video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\0crx isom", "raw"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(50), "AVIF"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(50), "raw"),
        (
            tiff(np.zeros((4, 4, 13), np.uint16), [0] * 10, 1),
            "a TIFF of 13 bands of 16 bits, which tlab cannot read: ",
        ),
        (tiff(np.zeros((4, 4, 13), np.uint16), [0] * 12, 1, planar=True), "a TIFF of 13 bands of 16 bits"),
        (tiff(np.zeros((4, 4, 2), np.uint16), [0], 1), "a TIFF of 2 bands of 16 bits"),
        (b"MM\0+\0\x08\0\0" + bytes(50), "a BigTIFF of big-endian"),
        (tiff(np.zeros((4, 4, 1), np.uint64), (), 1), "a TIFF of one band of 64 bits"),
        (tiff(np.zeros((4, 4, 1), np.int8), (), 1), "a TIFF of one band of 8 bits (signed)"),
        (tiff(np.zeros((4, 4, 3), np.uint16), (), 1, planar=True), "a TIFF of 3 bands of 16 bits"),
        (
            tiff(np.zeros((4, 4, 13), np.uint16), [0] * 10, 1).replace(b"\x15\1\4\0\1", b"\x15\1\2\0\3"),
            "damaged",  # the number of bands is text
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unreadable_files_say_why_and_nothing_else(tmp_path, content, reason, capfd, caplog):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(DecodeError) as caught:
        decode(path)
    assert caught.value.path == path
    assert reason in caught.value.reason
    assert str(caught.value).startswith(str(path))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500)


def test_heic_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "phone.jpg").write_bytes(HEIC)
    with pytest.raises(DecodeError, match=r"HEIC, which needs pillow-heif: pip install pillow-heif"):
        decode(tmp_path / "phone.jpg")


def test_heic(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    image = picture(1, (64, 48))
    heif.from_pillow(image).save(tmp_path / "x.jpg", quality=100)
    assert np.abs(pixels(tmp_path / "x.jpg") - np.asarray(image)).mean() < 3
    turned = image.copy()
    turned.info["exif"] = exif.tobytes()
    turned.encoderinfo = {"quality": 100}
    with (tmp_path / "turned.heic").open("wb") as file:
        heif.as_plugin._save_heif(turned, file, "")  # what `Image.save` calls once the library is registered
    assert pixels(tmp_path / "turned.heic").shape == (64, 48, 3)
    (tmp_path / "cut.heic").write_bytes((tmp_path / "x.jpg").read_bytes()[:-200])
    (tmp_path / "none.heic").write_bytes(HEIC)
    for name in ("cut.heic", "none.heic"):
        with pytest.raises(DecodeError, match=r"damaged|truncated"):
            decode(tmp_path / name)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("cut", [1, 2])
def test_a_jpeg_without_its_end_marker_is_whole(tmp_path, options, cut):
    picture(2, (200, 150)).save(tmp_path / "x.jpg", **options)
    content = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[:-cut])
    assert (pixels(tmp_path / "cut.jpg") == pixels(tmp_path / "x.jpg")).all()


@pytest.mark.parametrize(
    ("name", "share", "kept"),
    [
        ("JPEG", 0.95, 0.8),
        ("JPEG", 0.3, 0),
        ("PNG", 0.9, 0.8),
        ("PNG", 0.3, 0),
        ("BMP", 0.8, 0.7),
        ("GIF", 0.9, 0.5),
    ],
)
def test_files_cut_short_are_read_as_far_as_they_go_where_asked_for(tmp_path, name, share, kept):
    image = picture(2, (200, 152))
    image.save(tmp_path / "x", name)
    whole, content = pixels(tmp_path / "x"), (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DecodeError, match="truncated"):
        decode(tmp_path / "x")
    if not kept:
        with pytest.raises(DecodeError, match="truncated"):
            decode(tmp_path / "x", options=DecodeOptions(truncated=True))
        return
    part = decode(tmp_path / "x", options=DecodeOptions(truncated=True)).permute(1, 2, 0).numpy()
    assert part.shape == whole.shape
    assert (np.abs(part.astype(int) - whole).max(2) <= 8).mean() > kept


def test_large_text_and_profile(tmp_path):
    for before in (True, False):
        info = PngImagePlugin.PngInfo()
        info.add_text("Comment", "x" * 3_000_000, zip=True)
        info.add_itxt("More", "x" * 3_000_000, zip=True)
        info.add(b"teSt", b"", after_idat=True)
        for number in range(80):
            info.add_text(f"Part {number}", "y" * 1_000_000, zip=True)
        if not before:
            info.chunks = [(kind, data, True) for kind, data, *_ in info.chunks]
        profile = {"icc_profile": bytes(3_000_000)} if before else {}
        Image.fromarray(RGB).save(tmp_path / "x.png", pnginfo=info, **profile)
        assert (pixels(tmp_path / "x.png") == RGB).all()
    deep, content = png(DEEP[..., :3]), (tmp_path / "x.png").read_bytes()
    text = content[content.index(b"zTXt") - 4 :]  # with all that follows
    (tmp_path / "x.png").write_bytes(deep[: deep.index(b"IEND") - 4] + text)
    x = decode(tmp_path / "x.png", options=TWELVE_BITS)
    assert (x.permute(1, 2, 0).numpy() == DEEP[..., :3] >> 4).all()


@pytest.mark.parametrize(("name", "least"), [("PNG", None), ("JPEG", None), ("JPEG", 10)])
def test_the_limit_is_on_the_size_at_which_an_image_is_decoded(tmp_path, name, least):
    Image.new("RGB", (1501, 1300), (9, 9, 9)).save(tmp_path / "x", name)
    for limit in (1.9, 0.2):
        options = DecodeOptions(max_megapixels=limit)
        if name == "PNG":
            with pytest.raises(DecodeError, match=r"2 megapixels.*data\.max_megapixels=2 "):
                decode(tmp_path / "x", least, options)
        else:
            assert decode(tmp_path / "x", least, options)[0].numel() <= limit * 1e6
    assert decode(tmp_path / "x", None, DecodeOptions(max_megapixels=2)).shape == (3, 1300, 1501)


def test_more_pixels_than_pillow_allows(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    for name in ("JPEG", "PNG", "TIFF", "BMP"):
        Image.fromarray(RGB).save(tmp_path / "x", name)
        assert decode(tmp_path / "x").shape == (3, 30, 40)
    (tmp_path / "x").write_bytes(tiff(RGB.astype(np.uint16) * 16))
    assert (decode(tmp_path / "x", options=TWELVE_BITS).permute(1, 2, 0).numpy() == RGB).all()


def test_progressive_jpegs_count_in_full(tmp_path):
    """Their coefficients are held in memory at any scale."""
    picture(1, (1600, 1200)).save(tmp_path / "x.jpg", progressive=True)
    with pytest.raises(DecodeError, match="2 megapixels"):
        decode(tmp_path / "x.jpg", options=DecodeOptions(max_megapixels=1))


def test_missing_and_forbidden_files_say_so(tmp_path, monkeypatch):
    with pytest.raises(DecodeError, match="no such file"):
        decode(tmp_path / "x.jpg")

    def forbid(path, flags):
        raise PermissionError

    monkeypatch.setattr("os.open", forbid)
    with pytest.raises(DecodeError, match="no permission"):
        decode(tmp_path / "x.jpg")


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_check_finds_what_decoding_finds(tmp_path, name, share):
    buffer = io.BytesIO()
    picture(2, (200, 150)).save(buffer, name)
    (tmp_path / "x").write_bytes(buffer.getvalue()[: int(share * buffer.tell())])
    assert examine(tmp_path / "x").reason
    with pytest.raises(DecodeError):
        decode(tmp_path / "x")


@pytest.mark.parametrize(
    ("size", "least", "shape"),
    [
        ((800, 640), 64, (3, 80, 100)),
        ((800, 640), 81, (3, 160, 200)),
        ((800, 640), 160, (3, 160, 200)),
        ((800, 640), 161, (3, 320, 400)),
        ((800, 640), 321, (3, 640, 800)),
        ((804, 640), 64, (3, 160, 201)),
        ((801, 640), 64, (3, 640, 801)),  # half of it would be 401 x 320, half a pixel off at the edge
    ],
)
def test_large_jpegs_are_decoded_no_larger_than_needed(tmp_path, size, least, shape):
    picture(3, size).save(tmp_path / "x.jpg")
    picture(3, size).save(tmp_path / "x.png")
    assert decode(tmp_path / "x.jpg", least).shape == shape
    assert decode(tmp_path / "x.png", least).shape == (3, size[1], size[0])


def test_smaller_decoding_gives_the_pixels_of_the_full_size(tmp_path):
    """After the resize of evaluation; a picture with detail at every scale, as photographs have it."""
    from tlab.data.augment.evaluation import ResizeCrop, ResizePad

    rng = np.random.default_rng(0)
    image = np.zeros((640, 800, 3))
    for cells in (5, 20, 80, 320):
        noise = rng.normal(0, 300 / cells, (cells, cells, 3)).astype(np.float32)
        image += np.stack(
            [np.asarray(Image.fromarray(c).resize((800, 640), 3)) for c in noise.transpose(2, 0, 1)], 2
        )
    exif = Image.Exif()
    exif[0x0112] = 6
    picture_ = Image.fromarray((image + 128).clip(0, 255).astype(np.uint8))
    picture_.save(tmp_path / "x.jpg", quality=92, exif=exif)
    for finish in (ResizeCrop(70), ResizeCrop(140), ResizePad(80)):
        full, scaled = decode(tmp_path / "x.jpg"), decode(tmp_path / "x.jpg", finish.least_side)
        assert scaled.shape[1] < full.shape[1]
        difference = (finish(full).int() - finish(scaled).int()).abs()
        assert difference.max() <= 10
        assert difference.float().mean() < 1


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}, {"keep_rgb": True}]
)
@pytest.mark.parametrize("least", [None, 30, 60])
def test_opencv_and_pillow_decode_alike(tmp_path, monkeypatch, options, least):
    from tlab.data.decode import _plain_jpeg

    picture(4, (320, 240)).save(tmp_path / "x.jpg", **options)
    content = (tmp_path / "x.jpg").read_bytes()
    x_HWC = _plain_jpeg(content, least)
    assert _plain_jpeg(content[:-50], least) is None
    monkeypatch.setattr("tlab.data.decode._plain_jpeg", lambda *_: None)
    assert (x_HWC == decode(tmp_path / "x.jpg", least).permute(1, 2, 0).numpy()).all()


def test_opencv_leaves_what_is_odd_to_pillow(tmp_path):
    from tlab.data.decode import _plain_jpeg

    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1).save(tmp_path / "turned.jpg", exif=exif)
    picture(1).convert("L").save(tmp_path / "gray.jpg")
    picture(1).convert("CMYK").save(tmp_path / "print.jpg")
    picture(1).save(tmp_path / "x.png")
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing \xff\xd9")
    for file in tmp_path.iterdir():
        assert _plain_jpeg(file.read_bytes(), None) is None
