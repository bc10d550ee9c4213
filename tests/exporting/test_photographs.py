"""The function that a card shows reads a photograph as tlab does."""

import cv2
import numpy as np
import pytest
from PIL import Image

from tlab.data.decode import decode, upright_rgb
from tlab.data.decode_options import DecodeOptions, Levels
from tlab.exporting.photographs import read

RNG = np.random.default_rng(0)


def picture(*bands, high=256, dtype=np.uint8):
    return RNG.integers(0, high, (7, 9, *bands), dtype=dtype)


def with_alpha(*values):
    x = picture(4)
    x[..., 3] = np.resize(values, (7, 9))
    return x


@pytest.mark.parametrize(
    ("pixels", "levels"),
    [
        (picture(3), None),
        (picture(), None),
        (picture(high=4096, dtype=np.uint16), (0, 4095)),
        (picture(high=65536, dtype=np.uint16), None),
        (picture(high=4096, dtype=np.int32), (0, 4095)),
        (with_alpha(0), None),
        (with_alpha(200), None),
        (with_alpha(0, 1), None),
        (with_alpha(0, 90, 255), None),
    ],
    ids=["rgb", "gray", "12 bits", "16 bits", "32 bits", "alpha 0", "alpha 200", "alpha 0 and 1", "alpha"],
)
def test_a_photograph_is_read_as_tlab_reads_it(tmp_path, pixels, levels):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "photo.tif", exif=exif)
    with Image.open(tmp_path / "photo.tif") as image:
        image.load()
        expected = np.array(upright_rgb(image, Levels(levels))).transpose(2, 0, 1)[None]
    np.testing.assert_array_equal(read(str(tmp_path / "photo.tif"), *(levels or ())), expected)


@pytest.mark.parametrize("levels", [None, (0, 65535)])
@pytest.mark.parametrize("bands", [3, 4])
def test_of_color_of_16_bits_both_keep_the_upper_ones(tmp_path, levels, bands):
    file = tmp_path / "deep.png"
    cv2.imwrite(str(file), picture(bands, high=65536, dtype=np.uint16))
    expected = decode(file, options=DecodeOptions(Levels(levels)))[None].numpy()
    np.testing.assert_array_equal(read(str(file), *(levels or ())), expected)
