from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from tlab.dashboards import fonts
from tlab.dashboards.figures import confusion_figure, reliability_figure, shorten, tile_figure

GREY = [0xA0, 0xA0, 0xA0]


DARKEST, LIGHTEST = [8, 48, 107], [247, 251, 255]  # of a share of 1 and of 0


def inked(pixels: np.ndarray) -> np.ndarray:
    """Whether something is drawn at each pixel."""
    return (pixels != 255).any(axis=2)


def cells(pixels: np.ndarray, number: int) -> np.ndarray:
    """The color of each cell of a confusion matrix, `K K 3`, at its upper left corner, where no text is."""
    found = (pixels == LIGHTEST).all(axis=2) | (pixels == DARKEST).all(axis=2)
    rows, columns = np.nonzero(found)
    top, left = rows.min(), columns.min()
    wide = inked(pixels)[top + 1, left:].argmin() - 1  # up to the white beside its border
    corners = (np.arange(number) * wide / number).round().astype(int) + 2
    return pixels[top + corners][:, left + corners]


@pytest.mark.parametrize("number", [1, 10, 31, 100, 101, 1000])
def test_confusion_names_and_counts_fit(number):
    counts = torch.eye(number, dtype=torch.int64) * 1200
    counts[0, -1] = 3
    names = [f"a class whose $name$ is long and odd_{i}" for i in range(number)]
    pixels, nameless = (confusion_figure(counts, each, "Validation") for each in (names, [""] * number))
    drawn = inked(pixels)
    assert not drawn[[0, -1]].any()
    assert not drawn[:, [0, -1]].any()
    assert max(pixels.shape) < 2200
    assert (pixels.shape != nameless.shape) == (number <= 100)  # the names take room, where they are drawn


def test_names_that_are_short_stand_below_their_columns():
    flat, upright = (
        confusion_figure(torch.eye(10, dtype=torch.int64), [name] * 10, "t") for name in ("cat", "category")
    )
    assert flat.shape[0] < upright.shape[0]


@pytest.mark.parametrize(("number", "counted"), [(2, True), (30, True), (31, False)])
def test_confusion_writes_the_counts_of_up_to_thirty_classes(number, counted):
    counts = torch.eye(number, dtype=torch.int64)
    few, many = (confusion_figure(factor * counts, [""] * number, "t")[100:] for factor in (1, 8))
    assert (few != many).any() == counted


def test_confusion_colors_are_shares_of_the_row():
    colors = cells(confusion_figure(torch.tensor([[300, 100], [0, 1]]), ["a", "b"], "t"), 2)
    assert colors[1].tolist() == [LIGHTEST, DARKEST]
    assert colors[0, 0].tolist() == [33, 113, 181]  # of 0.75
    assert colors[0, 1].tolist() == [198, 219, 239]  # of 0.25


def test_confusion_of_a_class_without_images():
    colors = cells(confusion_figure(torch.tensor([[0, 0], [0, 2]]), ["a", "b"], "t"), 2)
    assert colors.tolist() == [[LIGHTEST] * 2, [LIGHTEST, DARKEST]]


@pytest.mark.parametrize(
    "names", [["as they are: ECE 0.123"], ["as they are: ECE 0.123", "temperature 0.0512: ECE 0.1"]]
)
def test_reliability_is_accuracy_by_confidence(names):
    sums = np.zeros((3, 16))
    sums[:, 7], sums[:, 14], sums[:, 15] = (4, 2, 1), (3, 2.9, 2), (5, 5, 4)
    pixels = reliability_figure(dict.fromkeys(names, sums), "Probabilities in validation, 1,234,567 images")
    drawn = inked(pixels)
    assert not drawn[[0, -1]].any()
    assert not drawn[:, [0, -1]].any()
    color = [0x1F, 0x77, 0xB4] if len(names) == 1 else [0xFF, 0x7F, 0x0E]
    rows, columns = np.nonzero((pixels == color).all(axis=2))
    line = rows > 90  # and not of the legend
    left, wide = pixels.shape[1] - 20 - 340, 340
    low, high = columns[line].min(), columns[line].max()
    assert (low + 3 - left) / wide == pytest.approx(0.5, abs=0.01)
    assert (high - 3 - left) / wide == pytest.approx(7.9 / 8, abs=0.01)  # 1 itself counts with the last bin


def test_tiles_lie_beside_each_other_and_keep_their_pixels():
    tiles = [torch.full((3, 50, 50), value, dtype=torch.uint8) for value in (0xA0, 0x20, 0x40)]
    pixels = tile_figure(tiles, ["cat", "", "dog\nagain"], "Title", 2, tile_inches=1.0)
    grey = np.isclose(pixels, GREY, atol=1).all(axis=2)
    assert 90**2 < grey.sum() < 110**2  # about an inch square
    rows, columns = np.nonzero(grey)
    assert columns.max() < pixels.shape[1] / 2  # left half
    assert rows.max() < pixels.shape[0] * 0.7  # upper row


def test_title_headers_and_captions_are_written_above_the_tiles():
    tiles = [torch.full((3, 50, 50), 0xA0, dtype=torch.uint8)] * 4
    captions, headers = ["猫 $x_1$\n+ dog", "", "cat", ""], ["before", "after"]
    pixels = tile_figure(tiles, captions, "Title", 2, headers, tile_inches=1.5)
    blank = tile_figure(tiles, ["\n", "", "", ""], "", 2, ["", ""], tile_inches=1.5)
    assert pixels.shape == blank.shape
    written = (pixels != blank).any(axis=2)
    assert not written[np.isclose(blank, GREY, atol=1).all(axis=2)].any()  # nothing covers a tile
    assert not written[[0, -1]].any()
    assert not written[:, [0, -1]].any()
    left, right = (half.any(axis=1) for half in np.array_split(written[45:], 2, axis=1))
    assert _bands(left) == 4  # header, two lines, and one in the second row
    assert _bands(right) == 1


def _bands(rows: np.ndarray) -> int:
    return int(np.count_nonzero(np.diff(rows.astype(int), prepend=0) == 1))


def test_names_are_cut_in_the_middle():
    assert shorten("short", 5) == "short"
    assert shorten("abcdefghij", 7) == "abc…hij"
    assert len(shorten("abcdefghij", 6)) == 6


@pytest.fixture
def no_fonts(monkeypatch):
    for cached in (fonts._other_font, fonts._say_what_is_missing):
        cached.cache_clear()
    monkeypatch.setattr(fonts, "_system_fonts", lambda: [Path("nowhere.ttf")])
    yield monkeypatch
    for cached in (fonts._other_font, fonts._say_what_is_missing):
        cached.cache_clear()


def test_letters_that_no_font_has_are_written_by_number(no_fonts, caplog):
    caplog.set_level("WARNING")
    names = ["玫瑰", "rose é"]
    assert [fonts.line(name, 10)[0] for name in names] == [r"\u73ab\u7470", "rose é"]
    counts = torch.eye(2, dtype=torch.int64)
    drawn = confusion_figure(counts, names, "Validation")
    assert (drawn == confusion_figure(counts, [r"\u73ab\u7470", "rose é"], "Validation")).all()
    tile_figure(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["百合"], "t", 1)
    assert [record.message.count("Noto Sans CJK") for record in caplog.records] == [1]


def test_a_font_of_this_machine_that_has_the_letters_is_taken(no_fonts):
    other = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf")
    no_fonts.setattr(fonts, "_system_fonts", lambda: [Path("nowhere.ttf"), other])
    letters = fonts._letters
    no_fonts.setattr(fonts, "_letters", lambda file: letters(file) | ({ord("玫")} if file == other else set()))
    shown, font = fonts.line("玫 a", 10)
    assert (shown, Path(font.path)) == ("玫 a", other)
