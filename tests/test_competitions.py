"""Competitions in the layouts that are handed out: from a table of labels over a refit to a submission."""

import csv
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from tlab.config.hydra import compose
from tlab.predict import run as predict
from tlab.runs.directory import RunDirectory
from tlab.train import train

QUICK = (
    *("data.image_size=32", "data.batch_size=12", "data.num_workers=0", "trainer=cpu", "trainer.precision=32-true"),
    *("backbone=resnet18", "backbone.weights=null", "backbone.upto=layer1", "logger=none"),
)
LABELLED, ASKED = 54, 18
CIFAR10 = ("experiment=kaggle_cifar10", "trainer.max_epochs=2")
HEAD = ("data=csv", "finetune=head", "aug=none", "refit=true")


def write(file: Path, header: str, rows: Iterable[Iterable[object]]) -> None:
    file.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")


def read(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return [*csv.DictReader(lines)]


@pytest.fixture(scope="module")
def numbered(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """`{0..71}.png`, shuffled, and their labels; the last 18 are those to be asked for."""
    root, labels = tmp_path_factory.mktemp("numbered"), []
    for asked in (False, True):
        files = sorted(file for file in photos.rglob("*.png") if (file.parts[-3] == "test") is asked)
        random.Random(0).shuffle(files)
        for file in files:
            shutil.copyfile(file, root / f"{len(labels)}.png")
            labels.append(file.parent.name)
    return root, labels


def cifar10(root: Path, images: Path, labels: list[str]) -> None:
    """Lay the images out as `train/1.png`, `test/1.png`, with the ids 1, 2, ... of each."""
    for folder, first in (("train", 0), ("test", LABELLED)):
        (root / folder).mkdir()
        for number in range(first, LABELLED if not first else len(labels)):
            shutil.copyfile(images / f"{number}.png", root / folder / f"{number - first + 1}.png")
    write(root / "trainLabels.csv", "id,label", enumerate(labels[:LABELLED], 1))
    write(root / "sample.csv", "id,label", ((number, "red") for number in range(1, ASKED + 1)))


BREEDS = {"red": "irish_setter", "green": "black-and-tan_coonhound", "blue": "flat-coated_retriever"}


def dog_breeds(root: Path, images: Path, labels: list[str]) -> None:
    """Lay the images out as `train/<id>.png`; the sample has a column of probabilities for each class."""
    for number in range(len(labels)):
        target = root / ("train" if number < LABELLED else "test") / f"{number:032x}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(images / f"{number}.png", target)
    write(root / "labels.csv", "id,breed", ((f"{i:032x}", BREEDS[labels[i]]) for i in range(LABELLED)))
    asked = [(f"{i:032x}", *(1 / 3 for _ in BREEDS)) for i in range(LABELLED, len(labels))]
    write(root / "sample.csv", ",".join(["id", *sorted(BREEDS.values())]), asked)


def leaves(root: Path, images: Path, labels: list[str]) -> None:
    """Lay the images out in one folder, which the tables' ids name."""
    shutil.copytree(images, root / "images")
    ids = [f"images/{number}.png" for number in range(len(labels))]
    write(root / "train.csv", "image,label", zip(ids[:LABELLED], labels, strict=False))
    write(root / "test.csv", "image", zip(ids[LABELLED:], strict=True))
    write(root / "sample.csv", "image,label", ((each, "red") for each in ids[LABELLED:]))


@pytest.mark.parametrize(
    ("lay_out", "given", "asked"),
    [
        (cifar10, CIFAR10, "test"),
        (dog_breeds, (*HEAD, "data.images=train", "data.label_column=breed"), "test"),
        (leaves, (*HEAD, "data.labels=train.csv", "data.images=.", "data.image_column=image"), "test.csv"),
    ],
    ids=["cifar10", "dog breeds", "leaves"],
)
def test_from_a_table_of_labels_to_a_submission(numbered, tmp_path, caplog, capsys, lay_out, given, asked):
    images, labels = numbered
    root, run, out = tmp_path / "data", RunDirectory(tmp_path / "run"), tmp_path / "out.csv"
    root.mkdir()
    lay_out(root, images, labels)
    train(compose([*given, *QUICK, f"data.root={root}", f"run_dir={run.path}"]))
    assert run.record["refit"]["images"] == LABELLED
    caplog.clear()
    capsys.readouterr()
    command = [f"run={run.path}", f"input={root / asked}", f"submission={root / 'sample.csv'}", f"output={out}"]
    predict(compose([*command, "num_workers=0", "accelerator=cpu"], "predict"))
    assert capsys.readouterr().out.startswith(f"{ASKED} predictions in {out}")
    assert not caplog.records
    sample, submission = read(root / "sample.csv"), read(out)
    assert [*submission[0]] == [*sample[0]]
    id_column, *columns = sample[0]
    assert [row[id_column] for row in submission] == [row[id_column] for row in sample]
    if len(columns) > 1:
        answers = [max(columns, key=lambda name: float(row[name])) for row in submission]
        assert all(sum(float(row[name]) for name in columns) == pytest.approx(1, abs=1e-6) for row in submission)
        labels = [BREEDS[label] for label in labels]
    else:
        answers = [row["label"] for row in submission]
    assert sum(map(str.__eq__, answers, labels[LABELLED:])) >= 0.9 * ASKED
