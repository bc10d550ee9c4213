"""A run goes on, and a finished one is returned, over the images that it has had and no others."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import DictConfig

from test_resume import crashing
from tlab.core.errors import UserError
from tlab.core.files import cache_dir
from tlab.runs.directory import RunDirectory
from tlab.train import train

SMALL = ("checkpoint.every_n_steps=1", "trainer.max_epochs=2")
HEAD = ("trainer.max_epochs=1", "finetune=head")


@dataclass
class Begun:
    """A run and its images, both of the test alone."""

    photos: Path
    run: Path
    compose: Callable[..., DictConfig]

    def again(self, *overrides: str) -> dict[str, float]:
        """The same command."""
        return train(self.compose(f"data.root={self.photos}", *SMALL, *overrides, run_dir=self.run))

    def record(self) -> dict:
        return json.loads((self.run / "run.json").read_text())

    def change_record(self, change: Callable[[dict], object]) -> None:
        record = self.record()
        change(record)
        (self.run / "run.json").write_text(json.dumps(record))

    def forget_list(self) -> None:
        """As a version of tlab left it that kept no list."""
        (self.run / "data.csv").unlink()
        self.change_record(lambda record: record["data"].pop("content"))


@pytest.fixture(scope="module")
def made(compose_quick, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run, and one that has crashed inside its second epoch."""
    folder = tmp_path_factory.mktemp("made")
    for name in ("finished", "crashed"):
        cfg = compose_quick(*SMALL, run_dir=folder / name)
        if name == "finished":
            train(cfg)
        else:
            with pytest.MonkeyPatch.context() as patch, crashing(patch, 5):
                train(cfg)
    return {name: folder / name for name in ("finished", "crashed")}


@pytest.fixture
def begin(made, photos, tmp_path, compose_run) -> Callable[..., Begun]:
    def begin_(status: str, moved: bool = False) -> Begun:
        """A copy of one of them, whose images have been moved, or were always where they are."""
        shutil.copytree(made[status], tmp_path / "run")
        shutil.copytree(photos, tmp_path / "photos")
        begun = Begun(tmp_path / "photos", tmp_path / "run", compose_run)
        if not moved:
            begun.change_record(lambda record: record["config"]["data"].update(root=str(begun.photos)))
        return begun

    return begin_


def delete(photos: Path) -> None:
    for name in ("00", "01"):
        (photos / f"train/red/{name}.png").unlink()


def add(photos: Path) -> None:
    shutil.copy(photos / "test/red/00.png", photos / "train/red/99.png")


def relabel(photos: Path) -> None:
    (photos / "train/red/00.png").rename(photos / "train/green/00a.png")


def rename(photos: Path) -> None:
    (photos / "train/red/00.png").rename(photos / "train/red/000.png")


def move(photos: Path) -> None:
    (photos / "train/red/00.png").rename(photos / "val/red/00a.png")


def overwrite(photos: Path) -> None:
    shutil.copy(photos / "test/red/00.png", photos / "train/red/00.png")


def delete_most(photos: Path) -> None:
    for file in photos.glob("train/*/*.png"):
        if int(file.stem) >= 4:
            file.unlink()


def add_many(photos: Path) -> None:
    for i, file in enumerate(sorted(photos.glob("test/*/*.png"))):
        shutil.copy(file, photos / "train" / file.parent.name / f"{100 + i}.png")


def spoil(photos: Path) -> None:
    (photos / "train/red/00.png").write_bytes(b"no image")


def rename_class(photos: Path) -> None:
    for split in ("train", "val", "test"):
        (photos / split / "red").rename(photos / split / "rouge")


def add_class(photos: Path) -> None:
    for split in ("train", "val", "test"):
        shutil.copytree(photos / split / "red", photos / split / "violet")


CHANGES = [
    (delete, "2 gone (train/red/00.png, train/red/01.png)"),
    (add, "1 added (train/red/99.png)"),
    (relabel, "1 relabelled (train/red/00.png: red -> green)"),
    (rename, "1 renamed (train/red/00.png -> train/red/000.png)"),
    (move, "1 moved to another split (train/red/00.png: train -> val)"),
    (overwrite, "1 changed in content (train/red/00.png)"),
    (spoil, "1 no longer readable (train/red/00.png)"),
    (rename_class, "class red renamed to rouge (24 images)"),
    (add_class, "class violet added"),
]
OTHER_CLASSES = (rename_class, add_class)


@pytest.mark.parametrize("status", ["crashed", "finished"])
@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_other_images_are_refused_with_what_has_changed(begin, status, change, words):
    begun = begin(status)
    change(begun.photos)
    before = {file: file.read_bytes() for file in begun.run.rglob("*") if file.is_file()}
    with pytest.raises(UserError) as refused:
        begun.again()
    assert words in str(refused.value)
    assert "hydra.run.dir" in str(refused.value)
    assert ("resume=anyway" in str(refused.value)) == (change not in OTHER_CLASSES)
    assert {file: file.read_bytes() for file in begun.run.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("status", ["crashed", "finished"])
def test_the_same_images_elsewhere_and_with_other_times_are_the_same(begin, status, caplog):
    begun = begin(status, moved=True)
    for file in begun.photos.rglob("*.png"):
        os.utime(file, (1, 1))
    caplog.clear()
    begun.again()
    assert begun.record()["status"] == "finished"
    assert not [record for record in caplog.records if record.levelname == "WARNING" and "images" in record.message]
    if status == "crashed":
        assert begun.record()["data"]["root"] == str(begun.photos)


@pytest.mark.parametrize(("change", "words"), [(delete_most, "24 gone"), (add_many, "18 added")])
def test_anyway_goes_on_with_the_new_images_and_notes_it(begin, change, words, caplog):
    """The epoch at hand had three batches, two of which are done; with other images it has one, or five."""
    begun = begin("crashed")
    change(begun.photos)
    assert begun.again("resume=anyway")["epochs"] == 2
    assert len(RunDirectory(begun.run).history()) == 2
    assert words in caplog.text
    assert [note.startswith(words) for note in begun.record()["data_changes"]] == [True]
    assert len(rows(begun.run)) == len(list(begun.photos.rglob("*.png")))
    begun.again()  # which are its images now


def test_anyway_returns_a_finished_result_with_a_warning(begin, caplog):
    begun = begin("finished")
    delete(begun.photos)
    listed = (begun.run / "data.csv").read_bytes()
    assert begun.again("resume=anyway") == RunDirectory(begun.run).metrics()
    assert dict(CHANGES)[delete] in caplog.text
    assert (begun.run / "data.csv").read_bytes() == listed  # of which it is the result


@pytest.mark.parametrize("status", ["crashed", "finished"])
@pytest.mark.parametrize("change", OTHER_CLASSES)
def test_anyway_does_not_take_other_classes(begin, status, change):
    begun = begin(status)
    change(begun.photos)
    with pytest.raises(UserError, match="since its head is for the classes blue, green, red"):
        begun.again("resume=anyway")


@pytest.mark.parametrize("status", ["crashed", "finished"])
def test_of_a_run_without_a_list_classes_and_numbers_are_compared(begin, status, caplog):
    begun = begin(status)
    begun.forget_list()
    begun.again()
    assert caplog.text.count("no list of the images") == 1
    assert (begun.run / "data.csv").exists() == (status == "crashed")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (delete, "34 images in train, not 36"),
        (move, "19 images in val, not 18"),
        (rename_class, "class rouge added"),
    ],
)
def test_of_a_run_without_a_list_other_numbers_are_refused(begin, change, words):
    begun = begin("crashed")
    begun.forget_list()
    change(begun.photos)
    with pytest.raises(UserError, match=words):
        begun.again()


def test_the_list_has_what_the_run_uses(begin, photos):
    begun = begin("finished")
    listed = rows(begun.run)
    assert len(listed) == 72
    assert list(listed[0]) == ["split", "path", "label", "size", "digest"]
    for row in listed:
        file = photos / row["path"]
        assert row["path"] == f"{row['split']}/{row['label']}/{file.name}"
        assert int(row["size"]) == file.stat().st_size
    twins = [row["digest"] for row in listed]
    assert len(set(twins)) == 72
    assert {len(digest) for digest in twins} == {32}


def test_unreadable_files_are_not_in_the_list_and_a_mended_one_is_new(compose_run, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    broken = tmp_path / "photos/train/red/broken.png"
    broken.write_bytes(b"no image")
    options = (*SMALL, *HEAD, f"data.root={tmp_path / 'photos'}")
    metrics = train(compose_run(*options))
    assert len(rows(tmp_path / "run")) == 72
    assert train(compose_run(*options)) == metrics
    shutil.rmtree(cache_dir() / "check")  # what is no image is found out anew
    assert train(compose_run(*options)) == metrics
    shutil.copy(photos / "test/red/00.png", broken)
    with pytest.raises(UserError, match=r"1 added \(train/red/broken\.png\)"):
        train(compose_run(*options))


def test_names_that_are_no_text_are_listed(compose_run, photos, tmp_path):
    """On Linux any bytes are a name; they and what is beyond ASCII survive."""
    shutil.copytree(photos, tmp_path / "photos")
    red = tmp_path / "photos/train/red"
    (red / "00.png").rename(red / 'größe, "2"\n.png')
    odd = (red / "01.png").rename(red / os.fsdecode(b"\xff.png"))
    options = (*SMALL, *HEAD, f"data.root={tmp_path / 'photos'}")
    metrics = train(compose_run(*options))
    paths = {row["path"] for row in rows(tmp_path / "run")}
    assert {'train/red/größe, "2"\n.png', "train/red/\\xff.png"} <= paths
    assert train(compose_run(*options)) == metrics
    odd.unlink()
    with pytest.raises(UserError, match=r"1 gone \(train/red/\\xff\.png\)"):
        train(compose_run(*options))


def test_a_damaged_list_is_named(begin):
    begun = begin("finished")
    (begun.run / "data.csv").write_text("split,path\n")
    with pytest.raises(UserError, match=r"data\.csv cannot be read"):
        begun.again()


def test_images_that_tlab_draws_itself_are_the_same_when_drawn_anew(compose_run, tmp_path, monkeypatch):
    few = "+data.source.images_per_class={train: 2, val: 1}"
    options = ("data=demo", "backbone=resnet18", "data.root=null", few, *SMALL, *HEAD)
    metrics = train(compose_run(*options))
    monkeypatch.setenv("TLAB_CACHE", str(tmp_path / "another cache"))
    assert train(compose_run(*options)) == metrics


def test_in_several_processes_other_images_are_refused_before_any_is_started(begin, monkeypatch):
    begun = begin("crashed")
    begun.change_record(lambda record: record["config"]["trainer"].update(devices=2, strategy="ddp"))
    delete(begun.photos)
    monkeypatch.setattr("tlab.core.processes.run_in_processes", lambda *_: pytest.fail("processes were started"))
    with pytest.raises(UserError, match="2 gone"):
        begun.again("trainer.devices=2", "trainer.strategy=ddp")


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "data.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
