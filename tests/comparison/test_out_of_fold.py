"""A sweep over data.fold: runs are paired by fold, and what the folds predict is joined."""

import csv
import re

import numpy as np
import pytest
from scipy import stats

from tlab.comparison import compare_runs
from tlab.comparison.phrases import detail, methods
from tlab.comparison.statistics import paired_difference, summarize
from tlab.comparison.write import compare
from tlab.runs.directory import RunDirectory

STRONG = (0.90, 0.80, 0.95, 0.85)
NONE = (0.85, 0.80, 0.90, 0.85)
IMAGES = [f"{name}/{number}.jpg" for name in ("cat", "dog") for number in range(8)]
OVERLAP = 4 / 12


@pytest.fixture
def make_fold(make_run):
    """Write the run of a fold: its val is every fourth image, of which the first `wrong` are mistaken."""

    def make(aug: str, fold: int, accuracy: float, seed: int = 0, wrong: int = 1, images=IMAGES) -> RunDirectory:
        overrides = [f"aug={aug}", "data.folds=4", f"data.fold={fold}"]
        config = {"data.folds": 4, "data.fold": fold, "data.source.fold": fold, "data.source.folds": 4}
        run = RunDirectory(make_run(f"aug={aug},data.fold={fold}", accuracy, seed, overrides, config))
        val = images[fold::4]
        split = {path: "val" if path in val else "train" for path in images}
        run.update(data={"content": "a", "images": {"train": len(images) - len(val), "val": len(val)}})
        lines = [f"{split[path]},{path},{path[:3]},1,00" for path in images]
        run.data_file.write_text("\n".join(["split,path,label,size,digest", *lines]) + "\n")
        said = [("dog" if path[:3] == "cat" else "cat") if i < wrong else path[:3] for i, path in enumerate(val)]
        lines = [f"{path},{path[:3]},{name},0.9,0.1,0.9" for path, name in zip(val, said, strict=True)]
        table = "path,label,prediction,probability,p(cat),p(dog)"
        (run.path / "predictions_val.csv").write_text("\n".join([table, *lines]) + "\n")
        return run

    return make


@pytest.fixture
def two(make_fold, sweep):
    for fold in range(4):
        make_fold("strong", fold, STRONG[fold], wrong=fold % 2)
        make_fold("none", fold, NONE[fold], wrong=1)
    return sweep


def corrected(values):
    """Mean, and the standard error of Nadeau and Bengio's equation."""
    return np.mean(values), np.std(values, ddof=1) * np.sqrt(1 / len(values) + OVERLAP)


def test_the_test_of_folds_with_images_enough_is_nadeau_and_bengio_s(two):
    for file in two.rglob("run.json"):
        run = RunDirectory(file.parent)
        run.update(data={**run.record["data"], "images": {"train": 3000, "val": 1000}})
    mean, error = corrected(np.subtract(STRONG, NONE))
    assert compare_runs(two).settings[1].difference.p == pytest.approx(2 * stats.t.sf(mean / error, 3))


def test_folds_are_no_factor_and_runs_are_paired_by_them(two):
    comparison = compare_runs(two)
    assert [factor.name for factor in comparison.factors] == ["aug"]
    best, other = comparison.settings
    assert list(best.values) == [(0, fold) for fold in range(4)]
    mean, error = corrected(STRONG)
    half = stats.t.ppf(0.975, 3) * error
    assert best.summary.mean == pytest.approx(mean)
    assert (best.summary.low, best.summary.high) == (pytest.approx(mean - half), pytest.approx(mean + half))
    mean, error = corrected(np.subtract(STRONG, NONE))
    assert other.difference.p == 1  # four images in a fold cannot tell a twentieth
    assert (other.difference.summary.n, other.difference.summary.mean) == (4, pytest.approx(mean))
    assert "4 folds" in detail(comparison)
    assert "these folds cannot tell" in detail(comparison)
    assert "seed" not in detail(comparison)
    assert "Nadeau and Bengio" in " ".join(methods(comparison))
    assert comparison.notes == ()


def test_the_correction_makes_intervals_wider_and_p_larger():
    first, second = dict(enumerate(STRONG)), dict(enumerate(NONE))
    plain, wider = (paired_difference(first, second, overlap=overlap) for overlap in (0.0, 1 / 4))
    assert plain.p == pytest.approx(stats.ttest_rel(STRONG, NONE).pvalue)
    assert wider.p > plain.p
    assert summarize(STRONG, overlap=1 / 4).high - summarize(STRONG).mean == pytest.approx(
        (summarize(STRONG).high - summarize(STRONG).mean) * np.sqrt(2)
    )


def test_predictions_are_joined_each_image_once(two, tmp_path):
    comparison = compare(two, output=tmp_path / "out")
    with (tmp_path / "out/oof.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    own = ["path", "label", "prediction", "probability", "p(cat)", "p(dog)", "fold", "seed", "setting"]
    assert list(rows[0]) == own
    for setting in ("aug=strong", "aug=none"):
        of_it = [row for row in rows if row["setting"] == setting]
        assert sorted(row["path"] for row in of_it) == sorted(IMAGES)
        assert all(row["path"] in IMAGES[int(row["fold"]) :: 4] for row in of_it)
    assert [setting.out_of_fold for setting in comparison.settings] == [14 / 16, 12 / 16]
    with (tmp_path / "out/comparison.csv").open(newline="") as lines:
        assert [row["oof_acc"] for row in csv.DictReader(lines)] == ["0.875", "0.75"]
    assert "Out of fold: accuracy 87.5 %" in detail(comparison)
    report = (tmp_path / "out/report.html").read_text()
    assert "oof acc" in report
    assert "small dots are folds" in report


def test_seeds_and_folds_are_paired_by_both(make_fold, sweep):
    for seed in (0, 1):
        for fold in range(4):
            make_fold("strong", fold, STRONG[fold] + seed / 100, seed, wrong=seed)
    (setting,) = (comparison := compare_runs(sweep)).settings
    assert (setting.summary.n, comparison.replicate) == (8, "run")
    assert setting.out_of_fold == pytest.approx((16 + 12) / 32)
    assert comparison.notes == ()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda run: run.metrics_file.unlink() or run.update(status="failed"), "fold 2 of 4 has no finished run"),
        (lambda run: (run.path / "predictions_val.csv").unlink(), r"predictions_val\.csv is missing"),
        (lambda run: add(run, "cat/0.jpg"), r"1 of 16 images is predicted by several folds \(cat/0\.jpg\)"),
        (lambda run: cut(run), r"4 of 16 images are predicted by no fold \(cat/2\.jpg"),
    ],
)
def test_what_is_missing_or_double_is_told(two, tmp_path, spoil, words):
    spoil(RunDirectory(two / "aug=none,data.fold=2/seed=0"))
    comparison = compare(two, output=tmp_path / "out")
    assert any(setting.out_of_fold is None for setting in comparison.settings)
    (note,) = (note for note in comparison.notes if "oof.csv" in note)
    assert note.startswith("oof.csv has nothing of aug=none, seed 0: ")
    assert re.search(words, note)
    assert "aug=none" not in (tmp_path / "out/oof.csv").read_text()


def test_a_class_of_one_image_is_trained_on_in_every_fold(two, tmp_path):
    for file in two.rglob("data.csv"):
        with file.open("a") as lines:
            lines.write("train,rare/0.jpg,rare,1,00\n")
    comparison = compare(two, output=tmp_path / "out")
    assert comparison.notes == ()
    assert [setting.out_of_fold for setting in comparison.settings] == [14 / 16, 12 / 16]
    assert "rare" not in (tmp_path / "out/oof.csv").read_text()


def add(run: RunDirectory, path: str) -> None:
    with (run.path / "predictions_val.csv").open("a") as lines:
        lines.write(f"{path},cat,cat,0.9,0.9,0.1\n")


def cut(run: RunDirectory) -> None:
    file = run.path / "predictions_val.csv"
    file.write_text(file.read_text().splitlines()[0] + "\n")
