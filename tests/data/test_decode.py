import io

import numpy as np
import pytest
import torch
from pictures import jpeg, picture, png_bomb
from PIL import Image

from tlab.data.decode import DecodeError, decode

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


def test_16_bit_rgb_png(tmp_path):
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in RGB)
    header = struct.pack(">IIBBBBB", 40, 30, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert (pixels(tmp_path / "x.png") == RGB).all()


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
        (b"hello", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "truncated or damaged"),
        (png_bomb(), "data.max_megapixels=900"),
        (bytes(5000), "not an image"),
    ],
)
def test_unreadable_files_say_why(tmp_path, content, reason):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(DecodeError) as caught:
        decode(path)
    assert caught.value.path == path
    assert reason in caught.value.reason
    assert str(caught.value).startswith(str(path))


def test_missing_and_forbidden_files_say_so(tmp_path, monkeypatch):
    with pytest.raises(DecodeError, match="no such file"):
        decode(tmp_path / "x.jpg")

    def forbid(path):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.read_bytes", forbid)
    with pytest.raises(DecodeError, match="no permission"):
        decode(tmp_path / "x.jpg")


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_draft_finds_what_full_decoding_finds(tmp_path, name, share):
    from tlab.data.decode import decode_bytes

    buffer = io.BytesIO()
    picture(2, (200, 150)).save(buffer, name)
    cut = buffer.getvalue()[: int(share * buffer.tell())]
    for draft in (False, True):
        with pytest.raises(DecodeError):
            decode_bytes(tmp_path, cut, draft=draft)


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
def test_opencv_and_pillow_decode_alike(tmp_path, options, least):
    from tlab.data.decode import _plain_jpeg, decode_bytes

    picture(4, (320, 240)).save(tmp_path / "x.jpg", **options)
    content = (tmp_path / "x.jpg").read_bytes()
    x_HWC = _plain_jpeg(content, least)
    assert (x_HWC == np.asarray(decode_bytes(tmp_path, content, least_side=least))).all()
    assert _plain_jpeg(content[:-50], least) is None


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
