"""A study from the command line: its runs, its figure, and how it goes on."""

import csv
import json
import shlex
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
import torchvision
from PIL import Image

from forked_command import run_forked

QUICK = (
    *("data.image_size=32", "data.batch_size=12", "data.num_workers=0", "trainer=cpu", "logger=none"),
    *("trainer.precision=32-true", "backbone.upto=layer1"),
)


def study(cwd: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    result = run_forked("tlab.study", *arguments, *QUICK, cwd=cwd)
    assert result.returncode == code, result.stderr + result.stdout
    return result


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def transfer(photos, tmp_path_factory) -> tuple[Path, tuple[str, ...]]:
    """The study of transferability over two stages, and its command."""
    cwd = tmp_path_factory.mktemp("transfer")
    torch.manual_seed(1)
    torch.save(torchvision.models.resnet18(num_classes=4).state_dict(), cwd / "weights.pth")
    command = ("name=transferability", f"data.root={photos}", "backbone.weights=weights.pth", "seed=1")
    command += ("trainer.max_epochs=1",)
    study(cwd, *command)
    return cwd / "outputs/study/transferability", command


def weights(run: Path, stage: str) -> dict[str, torch.Tensor]:
    state = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    start = f"net.backbone.stages.{stage}."
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}


def runs(directory: Path, *parts: str) -> list[Path]:
    """The runs whose setting has these parts."""
    return [run for run in sorted(directory.glob("*/seed=*")) if all(part in run.parent.name for part in parts)]


def test_frozen_stages_are_those_of_the_weights_or_of_the_first_runs(transfer):
    directory, _ = transfer
    file = torch.load(directory.parents[2] / "weights.pth", weights_only=True)
    kernel = "conv1.weight"
    (of_file,) = runs(directory, "random_from=layer1", "weights=weights.pth", "train=1")
    (of_own,) = runs(directory, "random_from=layer1", "weights=seed", "train=1")
    (first,) = runs(directory, "finetune=scratch")
    torch.testing.assert_close(weights(of_file, "stem")[kernel], file["conv1.weight"], rtol=0, atol=0)
    torch.testing.assert_close(weights(of_own, "stem")[kernel], weights(first, "stem")[kernel], rtol=0, atol=0)
    record = json.loads((of_own / "run.json").read_text(encoding="utf-8"))
    assert record["weights"] == "run seed=1, random from layer1 on"
    fine_tuned = runs(directory, "random_from=layer1", "weights=weights.pth", "finetune=full")
    (tuned,) = (run for run in fine_tuned if run != of_file)
    assert not torch.equal(weights(tuned, "stem")[kernel], file["conv1.weight"])


def test_points_and_comparison_hold_every_run(transfer):
    directory, _ = transfer
    points = rows(directory / "study.csv")
    assert len(points) == len(list(directory.glob("*/seed=*/metrics.json"))) == 7
    assert [(row["line"], row["x"]) for row in points] == [
        ("scratch", ""),
        *((line, stage) for line in ("AnB", "AnB+", "BnB") for stage in ("stem", "layer1")),
    ]
    (scratch,) = runs(directory, "finetune=scratch")
    assert float(points[0]["test/acc"]) == json.loads((scratch / "metrics.json").read_text())["test/acc"]
    settings = rows(directory / "comparison.csv")
    assert [row["finished"] for row in settings] == ["1"] * 7
    assert (directory / "report.html").exists()


def test_the_same_command_trains_nothing_more(transfer):
    directory, command = transfer
    before = {file: file.stat().st_mtime_ns for file in directory.glob("*/seed=*/metrics.json")}
    (directory / "study.html").unlink()
    study(directory.parents[2], *command)
    assert {file: file.stat().st_mtime_ns for file in directory.glob("*/seed=*/metrics.json")} == before
    assert (directory / "study.html").exists()


def test_another_setting_of_a_begun_study_is_refused(transfer):
    directory, command = transfer
    less = [argument for argument in command if "max_epochs" not in argument]
    said = study(directory.parents[2], *less, code=2).stderr
    assert "was begun with trainer.max_epochs=1, which this command does not give" in said
    assert said.rstrip().endswith("give it too, or another folder: output=DIR")


def test_the_page_draws_itself_without_a_request(transfer, browser):
    directory, _ = transfer
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    asked: list[str] = []
    mistakes: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: mistakes.append(str(error)))
    page.goto((directory / "study.html").as_uri())
    page.wait_for_selector("html[data-drawn]")
    assert page.locator("#figure .legendtext").all_text_contents() == ["scratch", "AnB", "AnB+", "BnB"]
    assert page.locator("tbody tr").count() == 2
    page.locator("th button").first.click()
    assert page.locator("tbody tr td:first-child").all_text_contents() == ["stem", "layer1"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert len([url for url in asked if not url.startswith("data:")]) == 1
    assert mistakes == []
    page.close()


@pytest.fixture(scope="module")
def sizes(photos, tmp_path_factory) -> tuple[Path, str, tuple[str, ...]]:
    """A study over the number of images, what it printed, and its command but for the values along the figure."""
    cwd = tmp_path_factory.mktemp("sizes")
    fixed = ("name=data_size", f"data.root={photos}", "finetune=head", "backbone.weights=null", "output=sizes")
    said = study(cwd, *fixed, "data.limit=1,2,4,null,12", "seed=0").stdout
    return cwd / "sizes", said, fixed


def test_sizes_get_a_law(sizes):
    directory, said, _ = sizes
    assert "twice as many" in said
    assert "1 run left out, with the same seed and images as another" in said
    assert {row["x"] for row in rows(directory / "study.csv")} == {"3", "6", "12", "36"}


def test_the_figure_is_there_for_a_paper(sizes):
    directory, _, _ = sizes
    with Image.open(directory / "figure.png") as image:
        assert image.width == 1950  # 6.5 inches at 300 dpi
    assert ElementTree.parse(directory / "figure.svg").getroot().tag.endswith("svg")


def test_a_command_of_less_keeps_the_points_that_are_there_and_names_what_it_leaves_out(sizes):
    directory, _, fixed = sizes
    before = rows(directory / "study.csv")
    said = study(directory.parent, *fixed, "data.limit=2", "seed=0").stdout
    assert sorted(map(str, rows(directory / "study.csv"))) == sorted(map(str, before))
    assert "With 4 runs of earlier commands." in said
    said = study(directory.parent, *fixed, "data.limit=2", "seed=0", "aug=strong").stdout
    assert [row["x"] for row in rows(directory / "study.csv")] == ["6"]
    assert "5 runs in the folder left out, with another aug" in said


def test_results_over_other_images_are_no_points(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "photos")
    fixed = (
        "name=data_size",
        f"data.root={root}",
        "finetune=head",
        "backbone.weights=null",
        "seed=0",
        "output=sizes",
    )
    study(tmp_path, *fixed, "data.limit=2")
    shutil.copy(root / "val/red/00.png", root / "val/red/new.png")
    said = study(tmp_path, *fixed, "data.limit=2,4", code=1).stdout
    assert [row["x"] for row in rows(tmp_path / "sizes/study.csv")] == ["12"]
    assert "1 run left out, with other images" in said


def test_a_study_of_ones_own_is_one_file_and_a_failed_run_leaves_the_others_their_figure(photos, tmp_path):
    (tmp_path / "mine/studies").mkdir(parents=True)
    (tmp_path / "mine/studies/rates.yaml").write_text(
        "# @package _global_\ntitle: Rates\nx: optimizer.lr\nx_label: rate\ny: val/acc\n"
        "settings: ['optimizer.lr=0.01,1e30', backbone.weights=null]\ncurves: {steps: [finetune=full]}\n"
    )
    own = ("--config-dir", "mine", "name=rates", "trainer.max_epochs=1")
    said = study(tmp_path, *own, f"data.root={photos}", code=1)
    assert "1 run of 2 left out, not finished or without val/acc" in said.stdout
    again = shlex.join(["python", "-m", "tlab.study", *own, f"data.root={photos}", *QUICK])
    assert f"tried again by: {again}\n" in said.stdout
    (row,) = rows(tmp_path / "outputs/study/rates/study.csv")
    assert (row["line"], row["x"], row["seed"]) == ("steps", "0.01", "0")
