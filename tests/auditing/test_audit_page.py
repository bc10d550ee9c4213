"""The page of an audit: which images it holds, and how it works in a real browser."""

import base64
import io
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
import pytest
from PIL import Image

from opened_page import OpenedPage
from tlab.auditing.finding import Audit, Finding, in_order
from tlab.auditing.report import page as page_module
from tlab.auditing.report.page import write_page
from tlab.data.thumbnails import thumbnails

HOSTILE = "train/cat/<img src=x onerror=alert(1)> \"'&amp;$x.png"
UNDECODABLE = "train/cat/caf\udce9 #1?%41.png"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Noise of 24 x 18 px in two splits and two classes, ten of each, with two odd names more."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    names = [
        f"{split}/{label}/{i}.png" for split in ("train", "val") for label in ("cat", "dog") for i in range(10)
    ]
    for name in [*names, HOSTILE, UNDECODABLE]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (18, 24, 3), np.uint8)).save(os.fsencode(root / name), "PNG")
    (root / "train/cat/broken.png").write_bytes(b"nothing")
    return root


def audit_of(root: Path, *findings: Finding, remarks: tuple[str, ...] = ()) -> Audit:
    counts = {"train": {"cat": 12, "dog": 10}, "val": {"cat": 10, "dog": 10}}
    sizes, modes, formats = {(24, 18): 40, (500, 375): 2}, {"RGB": 42}, {"PNG": 42}
    about = ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "a network", 1.5, "python -m tlab.audit data.root='a b'", remarks)
    return Audit(root, in_order(list(findings)), counts, sizes, modes, formats, *about)


FOUND = (
    Finding("unreadable", "train/cat/broken.png", "", "train", "cat", reason="no image"),
    Finding("near_duplicate", "train/cat/0.png", "val/cat/0.png", "train/val", "cat", "", 0.9, "flipped"),
    Finding(
        "near_duplicate", "train/cat/1.png", "val/dog/1.png", "train/val", "cat/dog", score=0.8, reason="resized"
    ),
    Finding("near_duplicate", "train/dog/2.png", "train/dog/3.png", "train", "dog", "", 0.7, "resized"),
    Finding("label_issue", HOSTILE, "", "train", "cat", "dog", 0.95, "<b>looks</b> like a dog"),
    Finding("outlier", UNDECODABLE, "", "train", "cat", score=0.6, reason="far away"),
    Finding("outlier", "train/cat/0.png", "", "train", "cat", score=0.5, reason="far away"),
    Finding("imbalance", "", "", "train", "dog", score=0.3, reason="10 of 22"),
)


@pytest.fixture(scope="module")
def file(root, tmp_path_factory) -> Path:
    return write_page(audit_of(root, *FOUND, remarks=("1 file is <none>",)), tmp_path_factory.mktemp("a b"))


class Opened(OpenedPage):
    """The page of a file."""

    def __init__(self, browser: Any, file: Path, width: int = 1280, scheme: str = "light") -> None:
        super().__init__(browser, file.as_uri(), width, scheme)

    def shown(self, kind: str) -> list[str]:
        """The paths of the findings that are shown of a kind."""
        return self.page.eval_on_selector_all(
            f"section#{kind}:not([hidden]) tbody tr:not([hidden])",
            "rows => rows.map(row => row.cells[0].dataset.key)",
        )


@pytest.fixture(scope="module")
def opened(browser, file) -> Opened:
    return Opened(browser, file)


@pytest.fixture
def reset(opened) -> Opened:
    opened.page.click("#reset")
    return opened


def pictures(file: Path) -> int:
    return file.read_text(encoding="utf-8").count("data:image/jpeg")


def test_each_picture_is_there_once_and_whole(opened, file):
    images = "[...document.querySelectorAll('.findings img')]"
    opened.page.wait_for_function(f"{images}.every(image => image.src && image.complete)")
    assert opened.page.evaluate(f"{images}.map(image => image.naturalWidth)") == [24] * 9
    assert pictures(file) == 8  # one of the files is found twice
    assert opened.page.locator("#unreadable img, #imbalance img").count() == 0


def test_nothing_is_asked_for_and_no_text_of_the_user_is_markup(opened, file):
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [file.as_uri()]
    assert HOSTILE in opened.page.text_content("#label_issue")
    assert "<b>looks</b> like a dog" in opened.page.text_content("#label_issue")
    assert "1 file is <none>" in opened.page.inner_text(".notes")
    assert opened.page.locator("main b").count() == 0


def test_each_link_leads_to_its_file(opened, root):
    links = opened.page.eval_on_selector_all(".findings td a", "links => links.map(link => link.href)")
    files = {os.fsdecode(unquote_to_bytes(urlsplit(link).path)) for link in links}
    assert files == {str(root / path) for each in FOUND for path in (each.path, each.other) if path}


def test_the_head_counts_what_was_found(opened):
    assert "8 findings in 42 images" in opened.page.inner_text("h1")
    tiles = opened.page.inner_text(".tiles")
    assert "2 across splits, 1 under two labels" in tiles
    assert "exact duplicates, groups in several splits, quality" in tiles
    opened.page.click(".tiles a[href='#outlier']")
    assert opened.page.evaluate("location.hash") == "#outlier"


def test_sorting(reset):
    assert reset.shown("near_duplicate") == ["train/cat/0.png", "train/cat/1.png", "train/dog/2.png"]
    heading = reset.page.locator("#near_duplicate th button", has_text="score")
    heading.click()
    assert reset.shown("near_duplicate") == ["train/dog/2.png", "train/cat/1.png", "train/cat/0.png"]
    heading.click()
    assert reset.shown("near_duplicate") == ["train/cat/0.png", "train/cat/1.png", "train/dog/2.png"]


def test_filtering(reset):
    page = reset.page
    page.select_option("select[data-name='split']", "val")
    assert reset.shown("near_duplicate") == ["train/cat/0.png", "train/cat/1.png"]
    assert page.inner_text("#near_duplicate h2 small") == "2 of 3"
    assert reset.shown("outlier") == []
    page.select_option("select[data-name='class']", "dog")
    assert reset.shown("near_duplicate") == ["train/cat/1.png"]
    page.select_option("select[data-name='split']", "")
    assert reset.shown("label_issue") == [HOSTILE]  # the class that it looks like
    page.select_option("#kind", "near_duplicate")
    assert reset.shown("label_issue") == []
    page.click("#reset")
    page.fill("#words", "RESIZED 2.png")
    assert reset.shown("near_duplicate") == ["train/dog/2.png"]
    assert not page.locator("#outlier").is_visible()
    assert reset.errors == []


def test_a_copied_path_is_a_word_of_bash(reset, root, pasted):
    reset.context.grant_permissions(["clipboard-read", "clipboard-write"])
    for kind, path in (("label_issue", HOSTILE), ("outlier", UNDECODABLE)):
        button = reset.page.locator(f"#{kind} button.copy").first
        button.click()
        reset.page.wait_for_selector(f"#{kind} button.copy:text-is('copied')")
        assert pasted(reset.page.evaluate("navigator.clipboard.readText()")) == [str(root / path)]


@pytest.mark.parametrize("width", [390, 1280])
def test_on_a_phone_and_in_the_dark(browser, file, width):
    grounds = set()
    for scheme in ("light", "dark"):
        opened = Opened(browser, file, width, scheme)
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.page.evaluate(
            "[...document.querySelectorAll('.gallery .scroll')].every(box => box.scrollWidth <= box.clientWidth)"
        )
        grounds.add(opened.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        opened.page.emulate_media(media="print")
        assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert opened.errors == []
    assert len(grounds) == 2


def test_nothing_found(browser, root, tmp_path):
    opened = Opened(browser, write_page(audit_of(root), tmp_path))
    assert opened.errors == []
    assert "nothing found in 42 images" in opened.page.inner_text("h1")
    assert opened.page.locator("svg.sizes circle").count() == 2
    assert opened.page.inner_text("#classes tbody tr:first-child").split() == ["cat", "12", "10", "22"]


def test_too_many_for_the_page_leave_the_lowest_scores_out(root, tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "MOST_PICTURES", 4)
    monkeypatch.setattr(page_module, "MOST_ROWS", 2)
    near = [
        Finding("near_duplicate", f"train/cat/{i}.png", f"val/cat/{i}.png", "train/val", "cat", score=i / 10)
        for i in range(5)
    ]
    odd = [Finding("outlier", f"train/dog/{i}.png", "", "train", "dog", score=i / 10) for i in range(3)]
    file = write_page(audit_of(root, *near, *odd), tmp_path)
    text = file.read_text(encoding="utf-8").replace("<wbr>", "")
    assert pictures(file) == 4
    assert "The first 2 of 5" in text
    assert "The page shows 4 images" in text
    assert "2 more have none here" in text
    has_picture = re.findall(r"<img data-picture='\d' alt=''><span>([^<]*)</span>", text)
    assert has_picture == ["train/cat/4.png", "val/cat/4.png", "train/cat/3.png", "train/dog/2.png"]


def test_a_thumbnail_is_small_and_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (400, 200), "red").save(tmp_path / "red.jpg", exif=exif)
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    red, broken = thumbnails([tmp_path / "red.jpg", tmp_path / "broken.jpg"])
    assert broken is None
    assert red is not None
    image = Image.open(io.BytesIO(base64.b64decode(red.partition(",")[2])))
    assert image.size == (64, 128)
    r, g, b = image.getpixel((32, 64))
    assert r > 240
    assert max(g, b) < 20


@pytest.mark.slow
def test_five_hundred_pairs_are_soon_open(browser, root, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(1000):  # as large as photos are at this size, which are smoother than noise
        coarse = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8))
        coarse.resize((128, 96), Image.Resampling.BICUBIC).save(tmp_path / f"{i}.jpg")
    pairs = [Finding("near_duplicate", f"{i}.jpg", f"{i + 500}.jpg", "train", "cat") for i in range(500)]
    file = write_page(audit_of(tmp_path, *pairs), tmp_path)
    assert pictures(file) == 1000
    assert file.stat().st_size < 20e6
    seconds = []
    for _ in range(3):
        opened = Opened(browser, file)
        seconds.append(opened.page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000)
        opened.context.close()
    assert min(seconds) < 2
