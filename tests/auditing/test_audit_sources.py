"""The audit of data that come otherwise than as a plain folder: further tests, tables, HEIC, files cut short."""

import csv
import shutil
from pathlib import Path

import cv2
import pytest
from PIL import Image

from tlab.assembly.frozen_features import open_images
from tlab.config.hydra import compose
from tlab.core.errors import UserError


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture
def folder(tmp_path, scene):
    """A function that draws `root/<part>/<class>/<i>.png` in the test's own directory, and returns the root."""

    def draw(*parts: str, count: int = 3, name: str = "photos") -> Path:
        numbers = iter(range(sum(map(ord, name)), 10_000))
        for part in parts:
            for label in ("cats", "dogs"):
                place = tmp_path / name / part / label
                place.mkdir(parents=True)
                for i in range(count):
                    cv2.imwrite(str(place / f"{name[0]}{i}.png"), scene(next(numbers), 96))
        return tmp_path / name

    return draw


def printed_command(printed: str, pasted) -> list[str]:
    line = next(line for line in printed.splitlines() if line.startswith("train:"))
    return pasted(line.removeprefix("train:"))[3:]


def test_what_a_further_test_has_leaves_training_and_nothing_else(folder, audited, tmp_path, pasted):
    root, new = folder("train", "val", "test"), folder(".", name="new")
    shutil.copy(new / "cats/n0.png", root / "train/cats/copy.png")
    shutil.copy(new / "cats/n1.png", root / "test/cats/copy.png")
    cv2.imwrite(str(root / "train/dogs/mirrored.png"), cv2.imread(str(new / "dogs/n0.png"))[:, ::-1])
    (new / "dogs/n2.png").write_bytes(b"no image")
    found, printed = audited(f"data.root={root}", f"data.tests={{new: {new}}}", "fix=true")
    across = {(each.path, each.split) for each in found.findings if each.kind == "exact_duplicate"}
    assert across == {("train/cats/copy.png", "train/test/new"), ("test/cats/copy.png", "test/test/new")}
    gone = {"train/cats/copy.png", "train/dogs/mirrored.png"}
    files = {file.relative_to(root).as_posix() for file in root.rglob("*.png")}
    assert {row["path"] for row in rows(tmp_path / "audit/cleaned.csv")} == files - gone
    assert "without 1 image with the same bytes as one of data.tests" in printed
    assert "without 1 image with a changed copy in data.tests" in printed
    assert "cannot be read" not in printed.partition("cleaned:")[2]  # that file is in no table
    data = open_images(compose([*printed_command(printed, pasted), f"run_dir={tmp_path}"]))
    measured = {Path(sample.file) for sample in data.samples("test/new")}
    assert measured == {*new.rglob("*.png")} - {new / "dogs/n2.png"}
    assert [issue for issue in data.issues if "byte for byte" in issue] == []


def test_a_class_of_copies_alone_stays(folder, audited, tmp_path, pasted):
    root = folder("train", "val", count=2)
    for i in range(2):
        shutil.copy(root / f"val/cats/p{i}.png", root / "train/cats")
    _, printed = audited(f"data.root={root}", "fix=true")
    assert "with 2 copies in train/cats" in printed
    assert "train:" in printed
    data = open_images(compose([*printed_command(printed, pasted), f"run_dir={tmp_path}"]))
    assert [len(samples) for samples in data.index.splits.values()] == [4, 4]


@pytest.mark.parametrize("broken", ["train/cats", "train", "val"])
def test_folders_in_which_no_file_can_be_read_are_findings(folder, audited, broken):
    root = folder("train", "val")
    files = [*(root / broken).rglob("*.png")]
    for file in files:
        file.write_bytes(b"no image")
    found, printed = audited(f"data.root={root}", "fix=true")
    unreadable = {root / each.path for each in found.findings if each.kind == "unreadable"}
    assert unreadable == {*files}
    rare = {each.label: each.reason for each in found.findings if each.kind == "imbalance"}
    assert ("no training image" in rare.get("cats", "")) == (broken == "train/cats")
    assert ("train:" in printed) == (broken == "val")
    assert any(f"No readable image is left in {Path(broken).parts[0]}" in remark for remark in found.remarks)


def test_a_folder_of_nothing_but_broken_files_is_a_mistake(folder, audited):
    root = folder("train", "val", count=2)
    for file in root.rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"None of 8 images .* can be read"):
        audited(f"data.root={root}")


def test_the_columns_of_a_table_are_used_and_kept(folder, audited, tmp_path, pasted):
    root = folder(".", count=10)
    names = [f"{label}/p{i}.png" for label in ("cats", "dogs") for i in range(10)]
    lines = [
        f"{name},{name[:4]},{'valid' if i % 5 == 0 else 'train'},p{i // 2},{i}" for i, name in enumerate(names)
    ]
    (root / "labels.csv").write_text("\n".join(["file,kind,fold,patient,age", *lines]))
    keys = ("data.images=.", "data.image_column=file", "data.label_column=kind", "data.split_column=fold")
    found, printed = audited("data=csv", f"data.root={root}", *keys, "data.group=patient", "fix=true")
    leaks = [each for each in found.findings if each.kind == "group_leak"]
    assert len(leaks) == 4  # 0, 5, 10, 15 are each in val, with their patient's other image in train
    assert all("data.group=patient" in each.reason for each in leaks)
    cleaned = rows(tmp_path / "audit/cleaned.csv")
    assert [*cleaned[0]] == ["path", "label", "split", "patient", "age"]
    assert {row["path"]: (row["patient"], row["age"]) for row in cleaned} == {
        name: (f"p{i // 2}", str(i)) for i, name in enumerate(names)
    }
    data = open_images(compose([*printed_command(printed, pasted), f"run_dir={tmp_path}"]))
    assert {split: len(samples) for split, samples in data.index.splits.items()} == {"train": 16, "val": 4}
    assert [issue for issue in data.issues if "4 groups of data.group are cut" in issue]
    assert not [issue for issue in data.issues if "names splits" in issue]


def test_heic_is_an_image_like_others(folder, audited, scene):
    heif = pytest.importorskip("pillow_heif")
    root = folder("train", "val")
    picture = Image.fromarray(scene(77, 200)).crop((0, 0, 200, 160))
    picture.save(root / "train/cats/phone.jpg", quality=95)
    heif.from_pillow(picture).save(root / "val/cats/phone.heic", quality=90)
    (root / "train/dogs/cut.heic").write_bytes((root / "val/cats/phone.heic").read_bytes()[:-500])
    found, _ = audited(f"data.root={root}")
    (near,) = (each for each in found.findings if each.kind == "near_duplicate")
    assert (near.path, near.other) == ("train/cats/phone.jpg", "val/cats/phone.heic")
    (broken,) = (each for each in found.findings if each.kind == "unreadable")
    assert broken.path == "train/dogs/cut.heic"
    assert found.sizes[200, 160] == 2
    assert found.formats["HEIF"] == 1


@pytest.mark.parametrize("unreadable", ["skip", "read"])
def test_a_file_cut_short_is_audited_as_a_run_would_take_it(folder, audited, tmp_path, scene, unreadable):
    root = folder("train", "val")
    whole, cut = root / "val/dogs/whole.jpg", root / "train/dogs/cut.jpg"
    cv2.imwrite(str(whole), scene(78, 200))
    cut.write_bytes(whole.read_bytes()[: int(0.98 * whole.stat().st_size)])
    found, printed = audited(f"data.root={root}", f"data.unreadable={unreadable}", "fix=true")
    kinds = {each.kind for each in found.findings if each.path == "train/dogs/cut.jpg"}
    cleaned = {row["path"] for row in rows(tmp_path / "audit/cleaned.csv")}
    assert "train/dogs/cut.jpg" not in cleaned  # it is a copy of one of val, or cannot be read
    if unreadable == "read":
        assert {"near_duplicate", "quality"} <= kinds
        assert "data.unreadable=read" in printed
    else:
        assert kinds == {"unreadable"}
