"""Named further test folders: data.tests={NAME: DIR}."""

import shutil
from pathlib import Path

import pytest

from tlab.assembly.frozen_features import open_images
from tlab.config.hydra import compose
from tlab.config.overrides import as_override
from tlab.core.errors import UserError
from tlab.evaluate import evaluate
from tlab.runs.directory import RunDirectory
from tlab.train import train

CLASSES = ("blue", "green", "red")


@pytest.fixture
def folder(photos, tmp_path):
    """Return a function that fills a new folder with so many test images of each path: `{"red": 3}`."""

    def make(name: str, counts: dict[str, int], split: str = "test") -> Path:
        for path, count in counts.items():
            (tmp_path / name / path).mkdir(parents=True)
            color = next((part for part in Path(path).parts if part in CLASSES), "red")
            for file in sorted((photos / split / color).iterdir())[:count]:
                shutil.copyfile(file, tmp_path / name / path / file.name)
        return tmp_path / name

    return make


def of(run: Path) -> dict[str, float]:
    return {name: value for name, value in RunDirectory(run).metrics().items() if name.startswith("test/")}


def test_named_folders_are_measured_like_the_test_split(compose_run, photos, folder, tmp_path):
    fog = folder("fog", {"red/nested/deep": 4, "green": 2})
    train(compose_run("finetune=head", as_override("data.tests", {"again": str(photos / "test"), "fog": str(fog)})))
    run, metrics = RunDirectory(tmp_path / "run"), of(tmp_path / "run")
    for name in ("acc", "loss", "f1", "acc_class/red"):
        assert metrics[f"test/again/{name}"] == pytest.approx(metrics[f"test/{name}"])
    assert sum(int(row["count"]) for row in run.confusion("test_fog")) == 6
    assert run.confusion("test_again") == run.confusion("test")
    assert run.record["tests"]["fog"]["metrics"]["test/fog/acc"] == metrics["test/fog/acc"]
    assert not any("fog" in column for row in run.history() for column in row)
    for name in ("again", "fog"):
        asked = compose([f"run={run.path}", "num_workers=0", "accelerator=cpu", f"split={name}"], "evaluate")
        assert evaluate(asked)[f"test/{name}/loss"] == pytest.approx(metrics[f"test/{name}/loss"], rel=1e-5)


@pytest.mark.parametrize(("place", "count"), [("", 4), ("absolute", 6)])
def test_a_table_is_read_where_its_path_leads_below_the_test(compose_run, folder, place, count):
    own, new = folder("own", {"red": 6, "green": 6}), folder("new", {"red": 4, "green": 2})
    for root, most in ((own, 6), (new, 2)):
        chosen = [file for label in ("red", "green") for file in sorted((root / label).iterdir())[:most]]
        lines = [f"{file.relative_to(root)},{file.parent.name}" for file in chosen]
        (root / "all.csv").write_text("\n".join(["id,label", *lines]))
    table = own / "all.csv" if place else "all.csv"  # that one says nothing of the images of a test
    keys = ("data=csv", f"data.root={own}", f"data.labels={table}", "data.images=.")
    data = open_images(compose_run(*keys, as_override("data.tests", {"new": str(new)})))
    assert len(data.samples("test/new")) == count


def test_what_differs_from_the_training_data_is_told(compose_run, photos, folder, tmp_path, caplog):
    other = folder("other", {"red": 2, "violet": 3, "Blue ": 1}, split="train")
    train(compose_run("finetune=head", as_override("data.tests", {"other": str(other)})))
    remarks = RunDirectory(tmp_path / "run").record["data"]["remarks"]
    assert any("leaves out 3 images of violet (3), no class of this run" in each for each in remarks)
    assert any("no image of 'green'" in each for each in remarks)
    assert any("In train and data.tests.other alike, byte for byte: 2 " in each for each in remarks)
    assert RunDirectory(tmp_path / "run").record["tests"]["other"]["images"] == 3


@pytest.mark.parametrize(
    ("tests", "words"),
    [
        ({"fog": "nowhere"}, r"data\.tests\.fog=nowhere is no folder"),
        ({"val": "."}, r"'val' cannot be a test's name"),
        ({"a/b": "."}, r"'a/b' cannot be a test's name"),
        (
            {"fog": "{empty}"},
            r"data\.tests\.fog=.*has no image of a class of this run, which knows blue, green, red",
        ),
        ({"fog": "{broken}"}, r"data\.tests\.fog: .*has no image to measure, 1 cannot be read"),
    ],
)
def test_mistakes_are_told_before_training(compose_run, folder, tmp_path, tests, words):
    places = {"empty": folder("empty", {"violet": 1, "grey": 1}), "broken": folder("broken", {"red": 0})}
    (tmp_path / "broken/red/0.png").write_text("<html>")
    given = {name: root.format(**places) for name, root in tests.items()}
    with pytest.raises(UserError, match=words) as caught:
        train(compose_run("finetune=head", as_override("data.tests", given)))
    assert "\n" not in str(caught.value)
    assert not RunDirectory(tmp_path / "run").history()


def test_a_finished_run_measures_what_it_is_asked_for_besides(compose_run, folder, tmp_path, monkeypatch, caplog):
    run = RunDirectory(tmp_path / "run")
    first = train(compose_run("finetune=head", as_override("data.tests", {"fog": str(folder("fog", {"red": 4}))})))
    weights = run.best.read_bytes()
    both = {"fog": str(tmp_path / "fog"), "rain": str(folder("rain", {"green": 3, "blue": 3}))}
    second = train(compose_run("finetune=head", as_override("data.tests", both)))
    assert {name: second[name] for name in first} == first
    assert second["test/rain/acc"] == of(run.path)["test/rain/acc"]
    assert run.status == "finished"
    assert run.best.read_bytes() == weights
    folder("fog", {"green": 2})  # other images under the same name
    third = train(compose_run("finetune=head", as_override("data.tests", both)))
    assert third["test/fog/acc"] != first["test/fog/acc"] or third["test/fog/loss"] != first["test/fog/loss"]
    assert run.record["tests"]["fog"]["images"] == 6
    monkeypatch.setattr("tlab.train.fit", None)
    assert train(compose_run("finetune=head")) == third
    (tmp_path / "fog").rename(tmp_path / "away")
    assert train(compose_run("finetune=head", as_override("data.tests", both))) == third
    assert "further tests fog, which were measured" in caplog.text
    with pytest.raises(UserError, match="does not exist"):
        train(compose_run("finetune=head", as_override("data.tests", both | {"fog": str(tmp_path / "mist")})))
    (tmp_path / "away").rename(tmp_path / "fog")
    run.last.unlink()
    with pytest.raises(UserError, match=r"python -m tlab\.evaluate run="):
        train(compose_run("finetune=head", as_override("data.tests", {"new": str(tmp_path / "fog")})))


def test_a_test_of_a_table_is_a_table_or_a_folder(compose_run, photos, folder, tmp_path):
    for name, split in (("data", "train"), ("shifted", "test")):
        (tmp_path / name / "images").mkdir(parents=True)
        rows = ["id,label"]
        for file in sorted((photos / split).rglob("*.png")):
            shutil.copyfile(file, tmp_path / name / "images" / f"{file.parent.name}{file.stem}.png")
            rows.append(f"{file.parent.name}{file.stem},{file.parent.name}")
        (tmp_path / name / "labels.csv").write_text("\n".join(rows))
    tests = {"table": str(tmp_path / "shifted"), "folders": str(photos / "test")}
    root = as_override("data.root", str(tmp_path / "data"))
    train(compose_run("finetune=head", "data=csv", root, as_override("data.tests", tests)))
    metrics = of(tmp_path / "run")
    assert metrics["test/table/acc"] == metrics["test/folders/acc"]
    assert metrics["test/table/loss"] == pytest.approx(metrics["test/folders/loss"])


@pytest.mark.parametrize("typed", ["data.tests={fog: ~/x y}", "data.tests.fog=~/x y"])
def test_a_folder_is_taken_as_typed(typed, monkeypatch, tmp_path):
    from tlab.config.overrides import tidy

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x y").mkdir()
    (override,) = tidy([typed])
    assert compose(["run_dir=x", override]).data.tests.fog == f"{tmp_path}/x y"
