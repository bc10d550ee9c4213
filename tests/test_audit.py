"""The audit as a user has it: findings of seeded faults, the cleaned table, and a run that takes it."""

import csv
import re
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from torchvision.models import ResNet18_Weights

from tlab.audit import OWN_KEYS, audit, run
from tlab.config.hydra import compose
from tlab.config.run_overrides import gather
from tlab.core.errors import DownloadFailed, UserError

QUICK = ("backbone=mobilenet_v3_small", "backbone.weights=bundled", "data.image_size=48", "trainer=cpu")


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def scene(seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    image = cv2.resize(draw.integers(0, 255, (9, 9, 3)).astype(np.uint8), (96, 96), interpolation=cv2.INTER_CUBIC)
    for x, y, radius in draw.integers(4, 90, (20, 3)).tolist():
        cv2.circle(image, (x, y), radius // 9 + 2, draw.integers(0, 255, 3).tolist(), -1)
    return image


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> Path:
    """root/{train,val}/{cats,dogs}: 12 and 4 pictures of each, and a fault of every kind."""
    root = tmp_path_factory.mktemp("faulty")
    for number, (split, label, i) in enumerate(
        (split, label, i)
        for split, count in (("train", 12), ("val", 4))
        for label in ("cats", "dogs")
        for i in range(count)
    ):
        (root / split / label).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / split / label / f"{i}.jpg"), scene(number))
    shutil.copy(root / "val/cats/0.jpg", root / "train/cats/same.jpg")
    shutil.copy(root / "train/dogs/3.jpg", root / "train/cats/contradicts.jpg")
    cv2.imwrite(str(root / "train/dogs/mirrored.jpg"), cv2.imread(str(root / "val/dogs/1.jpg"))[:, ::-1])
    cv2.imwrite(str(root / "train/dogs/black.png"), np.zeros((96, 96, 3), np.uint8))
    (root / "train/cats/5.jpg").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def audited(faulty, tmp_path_factory) -> tuple[Path, list[dict[str, str]], str]:
    """The folder of the audit, the findings, and what was printed."""
    output = tmp_path_factory.mktemp("audit")
    arguments = gather([f"data.root={faulty}", *QUICK, "fix=true"], OWN_KEYS, "tlab.audit")
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        found = audit(compose(arguments, "audit"), output)
    assert len(found.findings) == len(rows(output / "findings.csv"))
    return output, rows(output / "findings.csv"), "\n".join(lines)


def of_kind(findings, kind):
    return [row for row in findings if row["kind"] == kind]


def test_every_seeded_fault_has_its_row(audited):
    _, findings, _ = audited
    assert [*findings[0]] == ["kind", "path", "other", "split", "class", "suggested", "score", "reason"]
    (broken,) = of_kind(findings, "unreadable")
    assert (broken["path"], broken["split"], broken["class"]) == ("train/cats/5.jpg", "train", "cats")
    exact = {(row["path"], row["other"]): row for row in of_kind(findings, "exact_duplicate")}
    assert exact.keys() == {
        ("train/cats/same.jpg", "val/cats/0.jpg"),
        ("train/dogs/3.jpg", "train/cats/contradicts.jpg"),
    }
    across, contradicting = exact.values()
    assert {across["split"], contradicting["split"]} == {"train/val", "train"}
    assert {across["class"], contradicting["class"]} == {"cats", "dogs/cats"}
    (near,) = of_kind(findings, "near_duplicate")
    assert (near["path"], near["other"], near["split"]) == (
        "train/dogs/mirrored.jpg",
        "val/dogs/1.jpg",
        "train/val",
    )
    assert "train/dogs/black.png" in {row["path"] for row in of_kind(findings, "quality")}
    assert all(0 <= float(row["score"]) <= 1 for row in findings)


def test_the_cleaned_table_has_neither_copies_nor_broken_files(audited, faulty):
    output, _, printed = audited
    cleaned = rows(output / "cleaned.csv")
    gone = {
        "train/cats/same.jpg",
        "train/cats/5.jpg",
        "train/dogs/mirrored.jpg",
        "train/cats/contradicts.jpg",
        "train/dogs/3.jpg",
    }
    files = {file.relative_to(faulty).as_posix() for file in faulty.rglob("*.*")}
    assert {row["path"] for row in cleaned} == files - gone
    assert all(row["path"].startswith(f"{row['split']}/{row['label']}/") for row in cleaned)
    assert "without 1 file that cannot be read" in printed


def test_the_printed_command_trains_on_the_cleaned_table(audited, pasted):
    from tlab.assembly.frozen_features import open_images

    output, _, printed = audited
    line = next(line for line in printed.splitlines() if line.startswith("train:"))
    words = pasted(line.removeprefix("train:"))
    assert words[:3] == ["python", "-m", "tlab.train"]
    assert shlex.join(QUICK) in line
    data = open_images(compose([*words[3:], f"run_dir={output}"]))
    assert [len(samples) for samples in data.index.splits.values()] == [23, 8]
    assert [issue for issue in data.issues if "byte for byte" in issue] == []


def test_without_cleanlab_all_else_is_looked_at(faulty, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tlab.auditing.audit_images.has_cleanlab", lambda: False)
    found = audit(compose(gather([f"data.root={faulty}", *QUICK], OWN_KEYS, "tlab.audit"), "audit"), tmp_path)
    assert any("tlab-transfer[audit]" in remark for remark in found.remarks)
    assert found.numbers()["exact_duplicate"] == 2
    assert re.search("suspected labels +– ", capsys.readouterr().out)  # not 0, which nobody has counted
    assert not (tmp_path / "cleaned.csv").exists()


def test_a_mistake_is_one_sentence(tmp_path):
    cfg = compose(gather(["data.root=/no/such"], OWN_KEYS, "tlab.audit"), "audit")
    with pytest.raises(UserError, match=r"data\.root=/no/such does not exist"):
        audit(cfg, tmp_path)


def test_the_command_claims_a_folder_of_its_own(faulty, tmp_path, monkeypatch, run_entry_point):
    monkeypatch.chdir(tmp_path)
    arguments = gather([f"data.root={faulty}", *QUICK], OWN_KEYS, "tlab.audit")
    run_entry_point(run, "audit", *arguments)
    (folder,) = (tmp_path / "outputs/audit").iterdir()
    assert (folder / "findings.csv").exists()


def test_weights_that_cannot_be_fetched_end_in_its_own_command(faulty, tmp_path, monkeypatch):
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", "http://127.0.0.1:9/audited.pth")
    typed = [f"data.root={faulty}", "backbone=resnet18", "backbone.upto=stem", "trainer=cpu"]
    cfg = compose(gather(typed, OWN_KEYS, "tlab.audit"), "audit")
    with pytest.raises(DownloadFailed) as caught:
        audit(cfg, tmp_path)
    words = shlex.split(str(caught.value).rpartition("at hand: ")[2])
    assert words[:4] == ["python", "-m", "tlab.audit", f"data.root={faulty}"]
    assert not {"backbone=resnet18", "backbone.upto=stem"} & {*words}
    assert sum(word.startswith("backbone") for word in words) == 2
