"""Small image folders, and one with every oddity that users' folders have."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import jpeg, picture, png_bomb
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("TLAB_CACHE", str(folder))
    return folder


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that draws `{"train/cats": 5, ...}` as JPEG files `0.jpg`, `1.jpg`, ..."""

    def make(counts: dict[str, int], root: Path = tmp_path / "images") -> Path:
        root.mkdir(exist_ok=True)
        for number, (folder, count) in enumerate(counts.items()):
            (root / folder).mkdir(parents=True)
            for i in range(count):
                (root / folder / f"{i}.jpg").write_bytes(jpeg(1000 * number + i))
        return root

    return make


@pytest.fixture
def odd_folder(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder with every oddity, and the unreadable files in it: relative path -> a word of the reason."""
    root = tmp_path / "odd"
    cats, dogs = root / "cats", root / "dogs" / "deep" / "deeper"
    cats.mkdir(parents=True)
    dogs.mkdir(parents=True)
    base = picture(7)
    gray16 = Image.fromarray((np.arange(1200).reshape(30, 40) * 50).astype(np.uint16))
    clear = base.convert("RGBA")
    clear.putalpha(0)
    palette = base.quantize(8)
    base.convert("L").save(cats / "gray.jpg")
    gray16.save(cats / "gray16.png")
    Image.fromarray(np.linspace(0, 1, 1200, dtype=np.float32).reshape(30, 40)).save(cats / "float.tiff")
    base.convert("1").save(cats / "bits.png")
    palette.save(cats / "palette.png")
    palette.save(cats / "palette_clear.png", transparency=0)
    base.convert("LA").save(cats / "gray_alpha.png")
    clear.save(cats / "clear.webp")
    base.convert("CMYK").save(cats / "print.jpg")
    base.convert("LAB").save(cats / "lab.tif")
    exif = Image.Exif()
    exif[0x0112] = 6
    base.save(dogs / "turned.JPG", exif=exif)
    for name in ("moving.gif", "moving.webp", "moving.png"):
        base.save(dogs / name, save_all=True, append_images=[picture(8)])
    (dogs / "really_a_jpeg.png").write_bytes(jpeg(3))
    Image.new("RGB", (1, 1), "red").save(dogs / "one_pixel.png")
    Image.new("RGB", (2000, 1), "blue").save(dogs / "thin.png")
    base.save(dogs / "größe 大 🐕.png")
    for i in range(6):
        (cats / f"{i}.jpg").write_bytes(jpeg(20 + i))
        (dogs / f"{i}.jpeg").write_bytes(jpeg(40 + i))
    # Neither images nor data
    (cats / "notes.txt").write_text("hello")
    (cats / "Thumbs.db").write_bytes(b"\0")
    (cats / ".hidden.jpg").write_bytes(b"")
    (cats / "._0.jpg").write_bytes(b"\0\5\x16\7")
    for hidden in (root / ".git", root / "__MACOSX", cats / ".ipynb_checkpoints"):
        hidden.mkdir()
        (hidden / "0.jpg").write_bytes(jpeg(1))
    bad = {
        "cats/empty.jpg": (b"", "empty"),
        "cats/half.jpg": (jpeg(5)[:-300], "truncated"),
        "cats/page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        "cats/text.png": (b"no image at all", "not an image"),
        "dogs/deep/bomb.png": (png_bomb(), "bomb"),
        "dogs/deep/deeper/half.png": (_cut(base), "truncated"),
    }
    for name, (content, _) in bad.items():
        (root / name).write_bytes(content)
    return root, {name: word for name, (_, word) in bad.items()}


def _cut(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()[: buffer.tell() // 2]
