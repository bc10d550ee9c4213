import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tlab.dashboards.figures import confusion_figure, reliability_figure, shorten, tile_figure

GREY = [0xA0, 0xA0, 0xA0]


def texts_inside(figure) -> bool:
    """Whether each text lies wholly inside the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    width, height = figure.bbox.size
    found = figure.findobj(
        lambda artist: hasattr(artist, "get_text") and artist.get_text() and artist.get_visible()
    )
    boxes = [text.get_window_extent(renderer) for text in found]
    assert boxes
    return all(b.x0 >= -1 and b.y0 >= -1 and b.x1 <= width + 1 and b.y1 <= height + 1 for b in boxes)


@pytest.mark.parametrize("number", [1, 10, 31, 100])
def test_confusion_names_and_counts_fit(number):
    counts = torch.eye(number, dtype=torch.int64) * 1200
    counts[0, -1] = 3
    names = [f"a class whose $name$ is long and odd_{i}" for i in range(number)]
    figure = confusion_figure(counts, names, "Validation, epoch 1")
    axes = figure.axes[0]
    assert texts_inside(figure)
    assert ("1200" in {text.get_text() for text in axes.texts}) == (1 < number <= 30)
    assert max(figure.bbox.size) < 1800


def test_confusion_of_too_many_classes_goes_without_names():
    figure = confusion_figure(torch.eye(101, dtype=torch.int64), ["odd"] * 101, "t")
    assert not any("odd" in label.get_text() for label in figure.axes[0].get_xticklabels())


def test_confusion_colours_are_shares_of_the_row():
    figure = confusion_figure(torch.tensor([[3, 1], [0, 400]]), ["a", "b"], "t")
    assert figure.axes[0].images[0].get_array().tolist() == [[0.75, 0.25], [0.0, 1.0]]
    assert "403 of 404 right (99.8%)" in figure.axes[0].get_title()


def test_confusion_of_a_class_without_images():
    figure = confusion_figure(torch.tensor([[0, 0], [0, 2]]), ["a", "b"], "t")
    assert figure.axes[0].images[0].get_array().tolist() == [[0.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    "names", [["as they are: ECE 0.123"], ["as they are: ECE 0.123", "temperature 0.0512: ECE 0.1"]]
)
def test_reliability_is_accuracy_by_confidence(names):
    sums = np.zeros((3, 16))
    sums[:, 7], sums[:, 14], sums[:, 15] = (4, 2, 1), (3, 2.9, 2), (5, 5, 4)
    figure = reliability_figure(dict.fromkeys(names, sums), "Probabilities in validation, 1,234,567 images")
    assert texts_inside(figure)
    _, *lines = figure.axes[0].lines
    assert len(lines) == len(names)
    for line in lines:
        assert np.allclose(line.get_xydata(), [[0.5, 0.25], [7.9 / 8, 0.75]])  # 1 itself counts with the last bin


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
