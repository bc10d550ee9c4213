"""The report of an evaluation: what it says, and how it works in a real browser."""

import csv
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from opened_page import OpenedPage
from tlab.config.hydra import compose
from tlab.core.errors import UserError
from tlab.evaluate import run as evaluate
from tlab.evaluating import misclassified
from tlab.evaluating.evaluation import Evaluation
from tlab.evaluating.measure import measure
from tlab.evaluating.predicted_images import PredictedImages
from tlab.evaluating.report import confusion_matrix, pictures
from tlab.runs.load import load_trained
from tlab.runs.trained_model import TrainedModel
from tlab.train import train

CLASSES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def root(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of the photos: in val, half of them from each of two cameras, the last two under a wrong label."""
    root = tmp_path_factory.mktemp("a b")
    rows = []
    for split in ("train", "val"):
        for label in CLASSES:
            for number, file in enumerate(sorted((photos / split / label).iterdir())):
                name = f"images/{split}_{label}<{number}>.png"
                (root / name).parent.mkdir(exist_ok=True)
                shutil.copy(file, root / name)
                wrong = split == "val" and number > 3
                told = CLASSES[CLASSES.index(label) - 1] if wrong else label
                camera = "<b>old</b>" if wrong else "new"
                value = {"val_blue<0>": "NA", "val_green<0>": "inf"}.get(Path(name).stem, len(rows))
                rows.append((Path(name).name, told, split, camera, value, f"note {len(rows)}"))
    (root / "images/broken.png").write_bytes(b"nothing")
    rows.append(("broken.png", "red", "val", "new", 99, ""))
    with (root / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "label", "split", "camera", "number", "note"), *rows])
    return root


@pytest.fixture(scope="module")
def trained(root: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    keys = (
        *(f"data.root={root}", "data.split_column=split", f"+data.tests.elsewhere={photos / 'test'}"),
        *("data.image_size=32", "data.batch_size=12", "data.num_workers=0", "backbone.weights=null"),
        *("trainer=cpu", "trainer.precision=32-true", "finetune=head", "logger=none", f"run_dir={directory}"),
    )
    train(compose(["data=csv", *keys]))
    return directory


def asked(run: Path, *overrides: str) -> DictConfig:
    return compose([f"run={run}", "split=val", "num_workers=0", "accelerator=cpu", *overrides], "evaluate")


@pytest.fixture(scope="module")
def found(trained: Path) -> Evaluation:
    return measure(asked(trained))


@pytest.fixture(scope="module")
def images(found: Evaluation) -> PredictedImages:
    return PredictedImages.of(found)


@pytest.fixture(scope="module")
def file(trained: Path) -> Path:
    evaluate(asked(trained, "report=true"))
    return trained / "report_val.html"


class Opened(OpenedPage):
    """The page of a file."""

    def __init__(self, browser: Any, file: Path, width: int = 1280, scheme: str = "light") -> None:
        super().__init__(browser, file.as_uri(), width, scheme)

    def files(self, links: str) -> list[str]:
        """The files that links lead to."""
        urls = self.page.eval_on_selector_all(links, "links => links.map(link => link.href)")
        return [os.fsdecode(unquote_to_bytes(urlsplit(url).path)) for url in urls]


@pytest.fixture(scope="module")
def opened(browser: Any, file: Path) -> Opened:
    return Opened(browser, file)


def test_nothing_is_asked_for_and_no_text_of_the_user_is_markup(opened, file):
    pictures = "[...document.querySelectorAll('img[data-picture]')]"
    opened.page.wait_for_function(f"{pictures}.every(image => image.src && image.naturalWidth > 0)")
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [file.as_uri()]
    assert "<b>old</b>" in opened.page.inner_text("#slices")
    assert opened.page.locator("#slices b:text('old')").count() == 0


def test_a_cell_opens_to_its_images_the_highest_loss_first(opened, images):
    cells = Counter(zip(images.labels.tolist(), images.predicted.tolist(), strict=True))
    assert opened.page.locator("button[data-cell]").count() == len(cells)
    for (label, told), count in cells.items():
        button = opened.page.locator(f"button[data-cell='{label}/{told}']")
        assert button.inner_text() == str(count)
        button.click()
        own = np.flatnonzero((images.labels == label) & (images.predicted == told))
        expected = own[np.argsort(-images.losses[own], kind="stable")][: confusion_matrix.MOST_IN_CELL]
        assert opened.files("#opened a") == [images.samples[row].file for row in expected]
        assert opened.page.locator("#opened img").count() == len(expected)
        assert f"{CLASSES[label]} predicted as {CLASSES[told]}" in opened.page.inner_text("#opened h3")
    assert opened.errors == []


def test_the_worst_errors_are_explained(opened, images, root):
    worst = np.argsort(-np.where(images.correct, -1, images.losses))[: (~images.correct).sum()]
    assert len(worst) >= 6  # the wrong labels
    assert opened.files("article p a") == [images.samples[row].file for row in worst]
    first = opened.page.locator("article").first
    assert f"loss {images.losses[worst[0]]:.2f}" in first.inner_text()
    assert opened.page.locator("article .seen img").count() == 3 * len(worst)
    near = opened.files("article .near a")
    assert len(near) == misclassified.NEIGHBORS * len(worst)
    assert all(Path(each).name.startswith("train_") for each in near)


def test_neighbors_are_the_nearest_by_the_cosine_of_the_networks_features(opened, images, root, trained):
    import tlab

    model = tlab.load(trained, accelerator="cpu")
    training = sorted(map(str, (root / "images").glob("train_*")))
    worst = images.worst(1)[0]
    rows = [model.features(path).numpy() for path in (images.samples[worst].file, training)]
    x, y = (row / np.linalg.norm(row, axis=1, keepdims=True) for row in rows)
    cosines = (x @ y.T)[0]
    shown = opened.files("article:first-of-type .near a")
    assert sorted(cosines)[-4:] == pytest.approx(
        sorted(cosines[[training.index(each) for each in shown]]), abs=1e-4
    )


def test_tables_sort_and_slices_are_marked(opened, images):
    table = opened.page.locator("#slices-table")
    by = Counter(table.locator("tbody td:first-child").all_inner_texts())
    assert by["camera"] == 2
    assert by["brightness (0 to 1)"] == 5
    numbers = [
        row.split("\t")[1:3] for row in table.locator("tbody tr").all_inner_texts() if row.startswith("number")
    ]
    assert len(numbers) == 6
    assert numbers[-1] == ["(no number)", "2"]
    assert "inf" not in str(numbers)
    assert "note" in opened.page.inner_text("#slices .say")
    (old,) = (row for row in table.locator("tbody tr").all_inner_texts() if "old" in row)
    assert "below" in old  # all of them have a wrong label
    assert sum("\tnew\t" in row for row in table.locator("tr.off").all_inner_texts()) <= 1
    table.locator("th button", has_text="accuracy").click()
    keys = table.locator("tbody tr td:nth-child(4)").evaluate_all("cells => cells.map(c => +c.dataset.key)")
    assert keys == sorted(keys)
    row = opened.page.locator("#classes-table tbody tr").first.inner_text().split("\t")
    label = CLASSES.index(row[0])
    assert row[1] == str((images.labels == label).sum())
    assert row[2] == f"{100 * images.correct[images.labels == label].mean():.1f} %"


def test_what_is_measured_is_said(opened, found, trained):
    page = opened.page
    accuracy = found.measures["accuracy"]
    assert f"{100 * accuracy.value:.1f} % of {found.images} images" in page.inner_text("h1")
    assert f"{100 * accuracy.low:.1f} % to {100 * accuracy.high:.1f} %" in page.inner_text(".tiles")
    assert re.search(r"^1 file .*read", page.inner_text(".notes"), re.MULTILINE)
    for divisor in found.by_divisor:
        assert f"ECE {found.by_divisor[divisor]['ece'].value:.3f}" in page.inner_text("#reliability .legend")
    dots = page.locator("svg .curve0 circle title").all_text_contents()
    assert sum(int(re.search(r"(\d+) images", each)[1]) for each in dots) == found.images
    metrics = json.loads((trained / "metrics.json").read_text(encoding="utf-8"))
    (row,) = (row for row in page.locator("#sets-table tbody tr").all_inner_texts() if "elsewhere" in row)
    assert row.split("\t")[1:3] == ["18", f"{100 * metrics['test/elsewhere/acc']:.1f} %"]
    assert "elsewhere" in page.inner_text("#set-classes-table thead")


@pytest.mark.parametrize("width", [390, 1280])
def test_on_a_phone_in_the_dark_and_on_paper(browser, file, width):
    grounds = set()
    for scheme in ("light", "dark"):
        opened = Opened(browser, file, width, scheme)
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        grounds.add(opened.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        opened.page.emulate_media(media="print")
        assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert opened.errors == []
    assert len(grounds) == 2


def report(run: Path, output: Path, *overrides: str) -> str:
    evaluate(asked(run, "report=true", f"output={output}/metrics.json", *overrides))
    (file,) = output.glob("report_val*.html")
    return file.read_text(encoding="utf-8")


def test_without_torchcam_and_training_images_there_is_the_rest(trained, root, tmp_path, monkeypatch, caplog):
    def gone(_: object) -> None:
        raise UserError("the folder is gone.")

    monkeypatch.setattr(misclassified, "torchcam_is_there", lambda: False)
    monkeypatch.setattr(misclassified, "training_data", gone)
    text = report(trained, tmp_path)
    assert "tlab-transfer[explain]" in text
    assert caplog.text.count("pip install 'tlab-transfer[explain]'") == 1
    assert "cannot be listed: the folder is gone." in text
    assert "class='predicted'" not in text
    assert "class='near'><a" not in text
    assert "class='image'" in text


def test_too_many_pictures_and_classes_are_left_out_and_counted(trained, tmp_path, monkeypatch):
    room = 40_000
    monkeypatch.setattr(pictures, "MOST_CHARACTERS", room)
    monkeypatch.setattr(confusion_matrix, "MOST_CLASSES", 2)
    text = report(trained, tmp_path)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    assert {key for cell in data["cells"] for key in cell.split("/")} <= {"0", "1", "2"}
    assert len({key for cell in data["cells"] for key in cell.split("/")}) == 2
    assert re.search(r"these are the 2 with the most errors; \d+ errors? with others", text)
    assert re.search(r"The page shows \d+ thumbnails?; \d+ more have none here", text)


def test_a_report_of_another_folder_is_named_for_it(trained, photos, tmp_path):
    evaluate(asked(trained, "report=true", f"output={tmp_path}/m.json", f"data.root={photos}"))
    text = (tmp_path / f"report_val_of_{photos.name}.html").read_text(encoding="utf-8")
    assert "of 18 images predicted right" in text
    (table,) = re.findall(r"<table id='sets-table'.*?</table>", text, re.DOTALL)
    assert re.findall(r"<tr[^>]*><td[^>]*>(.*?)</td>", table) == [f"val of {photos.name}", "val", "test/elsewhere"]


def test_what_is_as_large_as_evaluation_allows_is_explained(trained, images, tmp_path):
    checkpoint = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    checkpoint["tlab"]["config"]["data"]["max_megapixels"] = 1e-4
    torch.save(checkpoint, run := tmp_path / "my.ckpt")
    errors = int((~images.correct).sum())
    shown, remarks = misclassified.explained(TrainedModel(load_trained(run), "cpu"), images, errors)
    assert shown == []
    assert f"{errors} of the {errors} worst" in remarks[0]
    text = report(run, tmp_path, "data.max_megapixels=1")
    assert text.count("<article") == errors


def test_without_errors_none_are_shown(trained, photos, tmp_path):
    images = PredictedImages.of(measure(asked(trained, f"data.root={photos}", "split=test")))
    for row in np.flatnonzero(images.correct)[:5]:
        sample = images.samples[row]
        folder = tmp_path / "right" / CLASSES[sample.label]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample.file, folder / f"{row}.png")
    folders = (f"output={tmp_path}/m.json", f"data.root={tmp_path}/right", "split=all")
    evaluate(asked(trained, "report=true", *folders))
    text = (tmp_path / "report_all_of_right.html").read_text(encoding="utf-8")
    assert "100.0 % of 5 images predicted right" in text
    assert "<article" not in text
