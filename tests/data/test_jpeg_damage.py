"""Damage that libjpeg passes over, which the check of the files finds."""

import io
from itertools import product

import numpy as np
import pytest
from pictures import picture
from PIL import Image

from tlab.data.datamodule import ImageDataModule
from tlab.data.decode_options import EXTRA_BYTES, MOSTLY_THERE
from tlab.data.jpeg_damage import END
from tlab.data.sources.folder import folder_index
from tlab.data.sources.verify import examine

PLAIN, RESTARTS, PROGRESSIVE = {"optimize": True}, {"restart_marker_rows": 1}, {"progressive": True}


def encoded(options, mode="RGB", size=(200, 150), seed=1):
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).normal(0, 20, (*size[::-1], 3))
    x_HWC = (np.asarray(picture(seed, size)) + noise).clip(0, 255).astype(np.uint8)
    Image.fromarray(x_HWC).convert(mode).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def lacking_the_end(content):
    return content[: int(0.8 * len(content))] + END


def lacking_bytes(content):
    return content[: int(0.7 * len(content))] + content[int(0.8 * len(content)) :]


def with_more_bytes(content):
    return content[:-2] + b"\x55" * 60 + END


@pytest.mark.parametrize("options", [{}, PLAIN, RESTARTS, PROGRESSIVE])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_whole_files_are_whole(tmp_path, options, mode):
    for size in ((1, 1), (9, 40), (200, 150)):
        content = encoded(options, mode, size)
        for name, of in {"x": content, "trailer": content + b"added by a phone", "comment": added(content)}.items():
            (tmp_path / name).write_bytes(of)
            assert examine(tmp_path / name)[2::2] == ("", "")


def added(content):
    """With a thumbnail, whose own markers are none of the image's."""
    inner = encoded({}, size=(30, 20))
    return content[:2] + b"\xff\xe5" + (len(inner) + 2).to_bytes(2, "big") + inner + content[2:]


@pytest.mark.parametrize(
    ("options", "damage"),
    [*product([{}, PLAIN, RESTARTS, PROGRESSIVE], [lacking_the_end]), *product([PLAIN, RESTARTS], [lacking_bytes])],
)
def test_missing_blocks_count_as_cut_short(tmp_path, options, damage):
    (tmp_path / "x").write_bytes(damage(encoded(options)))
    assert examine(tmp_path / "x").reason == MOSTLY_THERE
    content = encoded({} if options is PROGRESSIVE else options)
    (tmp_path / "x").write_bytes(content[: len(content) // 4] + END)
    assert examine(tmp_path / "x").reason.startswith("truncated")


@pytest.mark.parametrize("options", [PLAIN, PROGRESSIVE])
def test_a_file_cut_within_a_marker_is_cut_short(tmp_path, options):
    """Bytes after a last one of 255 are no image data, and show nothing of what is missing."""
    content = encoded(options)
    (tmp_path / "x").write_bytes(content[: content.rindex(b"\xff", 0, len(content) // 4) + 1])
    assert examine(tmp_path / "x").reason.startswith("truncated")


def test_restart_markers_may_have_bytes_that_fill_before_them(tmp_path):
    content = encoded(RESTARTS).replace(b"\xff\xd0", b"\xff\xff\xd0")
    (tmp_path / "x").write_bytes(content)
    assert examine(tmp_path / "x")[2::2] == ("", "")
    first = content.index(b"\xff\xff\xd0")
    (tmp_path / "x").write_bytes(content[: first - 400] + content[first:])
    assert examine(tmp_path / "x").reason == MOSTLY_THERE


def test_damage_is_named_and_the_terminal_stays_clean(tmp_path, caplog, capfd):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(6):
            (tmp_path / name / f"{i}.jpg").write_bytes(encoded({}, seed=i))
    (tmp_path / "a/more.jpg").write_bytes(with_more_bytes(encoded({}, seed=20)))
    (tmp_path / "a/text.jpg").write_bytes(encoded({}, seed=22).replace(b"\n", b"\r\n"))
    (tmp_path / "a/less.jpg").write_bytes(lacking_the_end(encoded({}, seed=21)))
    for unreadable in ("skip", "read"):
        data = ImageDataModule(lambda: folder_index(tmp_path), image_size=32, unreadable=unreadable)
        data.setup()
        for split in ("train", "val"):
            list(data.loader(split))
        assert sum("2 images have " + EXTRA_BYTES in issue for issue in data.issues) == 1
    assert f"Skipping 1 file unreadable: a/less.jpg ({MOSTLY_THERE})" in caplog.text
    assert "1 image cut short" in caplog.text
    assert "JPEG" not in capfd.readouterr().err.replace(EXTRA_BYTES, "")
