"""Runs on folds of the data: each is val once, and what is said of it is written."""

import csv
from pathlib import Path

import pytest

from tlab.config.hydra import compose
from tlab.core.errors import UserError
from tlab.data.contents import read_entries
from tlab.runs.directory import RunDirectory
from tlab.train import train


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return [*csv.DictReader(lines)]


@pytest.fixture(scope="module")
def table(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training photos as a table, with columns of their own."""
    root = tmp_path_factory.mktemp("table")
    (root / "images").symlink_to(photos / "train")
    files = sorted((photos / "train").rglob("*.png"))
    lines = [f"{f.parent.name}/{f.name},{f.parent.name},p{int(f.stem) // 2},site {f.stem},9" for f in files]
    (root / "labels.csv").write_text("\n".join(["id,label,patient,site,size", *lines]))
    return root


def test_each_image_is_predicted_in_one_fold(compose_run, table, tmp_path, monkeypatch):
    given = ("data=csv", f"data.root={table}", "finetune=head", "data.folds=2", "data.group=patient")
    labels, runs = {}, []
    for fold in range(2):
        run = RunDirectory(tmp_path / str(fold))
        metrics = train(compose_run(*given, f"data.fold={fold}", run_dir=run.path))
        predicted = rows(run.path / "predictions_val.csv")
        classes = [f"p({name})" for name in ("blue", "green", "red")]
        assert [*predicted[0]] == ["path", "label", "prediction", "probability", *classes]
        right = [row["label"] == row["prediction"] for row in predicted]
        assert sum(right) / len(right) == pytest.approx(metrics["val/acc"])
        for row in predicted:
            shares = {name: float(row[f"p({name})"]) for name in ("blue", "green", "red")}
            assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
            assert (row["prediction"], float(row["probability"])) == max(shares.items(), key=lambda each: each[1])
        assert not labels.keys() & {row["path"] for row in predicted}
        labels |= {row["path"]: row["label"] for row in predicted}
        listed = rows(run.data_file)
        assert {row["path"] for row in listed if row["split"] == "val"} == {row["path"] for row in predicted}
        assert {row["patient"] for row in listed if row["split"] == "val"}.isdisjoint(
            {row["patient"] for row in listed if row["split"] == "train"}
        )
        runs.append(metrics)
    assert len(labels) == 36
    assert all(path.split("/")[1] == label for path, label in labels.items())
    assert [*listed[0]] == ["split", "path", "label", "size", "digest", "patient", "site"]
    assert all(row["site"] == f"site {Path(row['path']).stem}" and row["size"] != "9" for row in listed)
    assert len(read_entries(run.data_file)) == 36
    written = run.val_predictions_file.read_bytes()
    run.val_predictions_file.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("lightning.pytorch.Trainer.test", None)
        assert train(compose_run(*given, "data.fold=1", run_dir=run.path)) == runs[1]
    assert run.val_predictions_file.read_bytes() == written
    monkeypatch.setattr("tlab.train.fit", None)
    assert train(compose_run(*given, "data.fold=1", run_dir=run.path)) == runs[1]
    for gone in (run.best, run.last):
        run.val_predictions_file.unlink(missing_ok=True)
        gone.replace(kept := gone.with_suffix(".kept"))
        with pytest.raises(UserError, match=rf"{gone.name} is gone, which predictions_val\.csv needs"):
            train(compose_run(*given, "data.fold=1", run_dir=run.path))
        kept.replace(gone)
    run.val_predictions_file.write_bytes(written)
    with pytest.raises(UserError, match=r"with another data\.fold"):
        train(compose_run(*given, "data.fold=0", run_dir=run.path))
    cells = (table / "labels.csv").read_text()
    (table / "labels.csv").write_text(cells.replace("p0,", "p3,"))
    try:
        with pytest.raises(UserError, match="moved to another split"):
            train(compose_run(*given, "data.fold=1", run_dir=run.path))
    finally:
        (table / "labels.csv").write_text(cells)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["data.folds=3"], r"data\.folds=3 needs data\.fold"),
        (["data.fold=1"], r"data\.fold=1 needs data\.folds"),
        (["data.limit=1.5"], r"data\.limit=1\.5 is neither"),
    ],
)
def test_mistakes_are_told_at_once(compose_run, given, words, tmp_path):
    with pytest.raises(UserError, match=words):
        train(compose_run(*given))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("group", [r"person(\d+)_", r"[A-Z]+(\d{1,2})\.", r"(?:a|b) \((\d+)\)\.jpg", "patient"])
def test_a_pattern_is_taken_as_typed(group):
    from tlab.config.overrides import tidy

    (override,) = tidy([f"data.group={group}"])
    assert compose(["data.root=x", "run_dir=x", override]).data.source.group == group
