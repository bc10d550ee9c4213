"""Metrics of a trained run, on its own data and on other folders."""

import json
import logging
import math
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from tlab.config.hydra import compose
from tlab.core.errors import UserError
from tlab.core.text import counted
from tlab.evaluate import evaluate
from tlab.evaluate import run as evaluate_and_print
from tlab.predict import predict
from tlab.train import train

CLASSES = ("blue", "green", "red")
QUICK = (
    *("data.image_size=32", "data.batch_size=12", "data.num_workers=0", "backbone.weights=null", "trainer=cpu"),
    *(
        "trainer.precision=32-true",
        "trainer.max_epochs=2",
        "finetune.head_epochs=1",
        "head.solver=sgd",
        "logger=none",
    ),
)


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that leaves some of its files out, and stops at one that cannot be read."""
    directory = tmp_path_factory.mktemp("trained")
    own = ("data.exclude=['*/05.png']", "data.unreadable=error", f"data.root={photos}", f"run_dir={directory}")
    train(compose([*QUICK, *own]))
    return directory


@pytest.fixture(scope="module")
def trained_on_a_table(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("table")
    write_table(directory / "data", photos, {name: range(12) for name in CLASSES})
    train(compose([*QUICK, "data=csv", f"data.root={directory / 'data'}", f"run_dir={directory / 'run'}"]))
    return directory / "run"


def write_table(root: Path, photos: Path, numbers: dict[str, range]) -> Path:
    """Copy training images into `root/images`, and label them in `root/labels.csv`."""
    (root / "images").mkdir(parents=True)
    rows = [f"{name}{i},{name}" for name in numbers for i in numbers[name]]
    for name, chosen in numbers.items():
        for i in chosen:
            source = photos / "train" / (name if name in CLASSES else "red") / f"{i:02}.png"
            shutil.copyfile(source, root / "images" / f"{name}{i}.png")
    (root / "labels.csv").write_text("\n".join(["id,label", *rows]))
    return root


@pytest.fixture
def folder(photos: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that fills folders with so many images, none twice, some of another color: `{"red": 3}`."""

    def make(counts: dict[str, int]) -> Path:
        left = {name: sorted(photos.glob(f"*/{name}/*.png")) for name in CLASSES}
        for path, count in counts.items():
            (tmp_path / "new" / path).mkdir(parents=True)
            name = next((part for part in Path(path).parts if part in CLASSES), "red")
            for i in range(count):
                color = CLASSES[CLASSES.index(name) - 1] if i % 3 == 1 else name
                shutil.copyfile(left[color].pop(), tmp_path / "new" / path / f"{i}.png")
        return tmp_path / "new"

    return make


def asked(command: str, run: Path, *overrides: str) -> DictConfig:
    return compose([f"run={run}", "num_workers=0", "accelerator=cpu", *overrides], command)


def measured(run: Path, root: Path, *overrides: str) -> dict[str, float]:
    return evaluate(asked("evaluate", run, f"data.root={root}", *overrides))


def predicted(run: Path, folder: Path, *overrides: str) -> dict[str, float]:
    """Return what predict's rows come to, where paths name the class: accuracy, cross-entropy, images."""
    asked_for = asked("predict", run, f"input={folder}", "calibrate=false", *overrides)
    rows = [row for row in predict(asked_for) if row["prediction"]]
    true = [next(part for part in Path(row["path"]).parts[::-1] if part in CLASSES) for row in rows]
    right = [row["prediction"] == name for row, name in zip(rows, true, strict=True)]
    losses = [-math.log(float(row[f"p({name})"])) for row, name in zip(rows, true, strict=True)]
    return {"acc": sum(right) / len(rows), "loss": sum(losses) / len(rows), "images": len(rows)}


@pytest.mark.parametrize(
    ("counts", "split"),
    [
        ({"red": 1, "green": 1, "blue": 1}, "all"),
        ({"green": 1}, "all"),
        ({"red/a/b": 4, "red/c": 3, "blue": 4}, "all"),
        ({"test/red": 4, "test/blue": 4}, "test"),
        ({"validation/green": 5}, "val"),
        ({"Train/red": 1, "Train/green": 6}, "train"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else value,
)
def test_another_folder_is_measured_whole_and_as_predict_predicts_it(counts, split, trained, folder, capsys):
    root = folder(counts)
    (root / next(iter(counts)) / "broken.png").write_text("<html>")
    metrics = measured(trained, root)
    assert f"{counted(sum(counts.values()), 'image')} (" in capsys.readouterr().out
    expected = predicted(trained, root)
    assert expected["images"] == sum(counts.values())
    assert metrics[f"{split}/acc"] == pytest.approx(expected["acc"], abs=1e-6)
    assert metrics[f"{split}/loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert {name.split("/")[0] for name in metrics} == {split}
    present = {part for path in counts for part in Path(path).parts if part in CLASSES}
    assert {name.rsplit("/", 1)[1] for name in metrics if "acc_class" in name} == present
    assert all(0 <= value <= 1 for name, value in metrics.items() if not name.endswith("/loss"))


@pytest.mark.filterwarnings("ignore:.*fp16 is not supported on CPU")
def test_evaluate_and_predict_compute_in_one_precision(trained, folder):
    """Also where Lightning takes another one than it is asked for."""
    root = folder({"red": 8, "green": 8, "blue": 8})
    precise = measured(trained, root)
    metrics = measured(trained, root, "precision=16-mixed")
    assert metrics["all/loss"] != precise["all/loss"]
    expected = predicted(trained, root, "precision=16-mixed")
    assert metrics["all/loss"] == pytest.approx(expected["loss"], rel=1e-4)


def test_one_class_has_the_metrics_of_that_class(trained, folder):
    """Macro F1 is the mean over the classes among labels and predictions, as scikit-learn's."""
    root = folder({"green": 12})
    metrics = measured(trained, root)
    accuracy = predicted(trained, root)["acc"]
    others = {row["prediction"] for row in predict(asked("predict", trained, f"input={root}"))} - {"green"}
    assert metrics["all/acc_class/green"] == metrics["all/acc"] == pytest.approx(accuracy)
    assert metrics["all/f1"] == pytest.approx(2 * accuracy / (1 + accuracy) / (1 + len(others)), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "split", "number"),
    [([], "test", 3), (["split=val"], "val", 5), (["split=train"], "train", 4), (["split=all"], "all", 12)],
)
def test_split_folders_are_chosen_from(options, split, number, trained, folder, capsys):
    root = folder({"train/red": 3, "train/violet": 1, "val/red": 2, "val/green": 3, "test/blue": 3})
    if split in ("train", "all"):
        with pytest.raises(UserError, match="violet is no class of this run") as caught:
            measured(trained, root, *options)
        offered = shlex.split(str(caught.value).rpartition(" with ")[2])
        options = [*options, *(offered if split == "all" else ["data.exclude=['*/violet']"])]
        number -= 1
    metrics = measured(trained, root, *options)
    assert f"{number} images" in capsys.readouterr().out
    below = {"all": root}.get(split, root / split)
    shutil.rmtree(root / "train/violet")
    assert metrics[f"{split}/acc"] == pytest.approx(predicted(trained, below)["acc"], abs=1e-6)


@pytest.mark.parametrize(
    ("counts", "options", "words"),
    [
        ({"red": 2, "blue": 2}, ["split=val"], "split=val: .* is not split"),
        ({"train/red": 2, "val/red": 2}, ["split=test"], "split=test: .* there is train, val .*split=all"),
        ({"test": 3}, [], "test has no class folders: its images lie side by side"),
        ({"train/red": 2, "test": 3}, ["split=test"], "split=test: .* there is train "),
        ({"": 3}, [], "has no class folders: its images lie side by side"),
        ({"red": 0, "blue": 0}, [], "'blue/', 'red/' .* hold no file"),
        ({"red": 2, "violet": 1}, [], "violet is no class of this run, which knows blue, green, red"),
    ],
)
def test_mistakes_are_named(counts, options, words, trained, folder):
    root = folder(counts)
    with pytest.raises(UserError, match=words) as error:
        measured(trained, root, *options)
    assert "\n" not in str(error.value)


def test_mistakes_that_are_not_the_folders(trained, folder, tmp_path):
    with pytest.raises(UserError, match=r"data\.root=.*does not exist"):
        measured(trained, tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"data\.exclude .*data\.root=DIR"):
        evaluate(asked("evaluate", trained, "data.exclude=[red]"))
    with pytest.raises(UserError, match="split=nope"):
        measured(trained, tmp_path, "split=nope")
    root = folder({"red": 0})
    (root / "red/page.png").write_text("<html>")
    with pytest.raises(UserError, match="no image to measure, 1 cannot be read"):
        measured(trained, root)


def test_what_cannot_be_read_is_named_and_counted_by_both(trained, folder, tmp_path, capsys, caplog):
    root = folder({"red": 2, "green": 2})
    broken = [f"red/{i}.jpg" for i in range(9, 14)]
    for name in broken:
        (root / name).write_text("<html>")
    measured(trained, root)
    printed = capsys.readouterr().out
    assert "4 images" in printed
    assert "5 unreadable" in printed
    assert all(name in printed for name in broken)
    from tlab.predict import run

    with caplog.at_level(logging.WARNING):
        caplog.clear()
        run(asked("predict", trained, f"input={root}", f"output={tmp_path / 'preds.csv'}"))
    assert "4 predictions" in (printed := capsys.readouterr().out)
    assert "5 unreadable" in printed
    assert all(name in caplog.text for name in broken)


def test_what_is_left_aside_is_named(trained, folder, capsys, caplog):
    root = folder({"val/red": 2, "val/green": 0, "test": 2, "other": 1})
    shutil.copyfile(root / "val/red/0.png", root / "val/stray.png")
    assert set(measured(trained, root)) >= {"val/acc", "val/loss"}
    assert "2 images" in capsys.readouterr().out
    for name in ("val/green", "val/stray.png", "other", "test"):
        assert name in caplog.text


def test_its_own_data_keep_their_splits(trained, capsys, tmp_path):
    metrics = json.loads((trained / "metrics.json").read_text())
    for split in ("test", "val"):
        options = [] if split == "test" else ["split=val"]
        evaluate_and_print(asked("evaluate", trained, f"output={tmp_path / 'again.json'}", *options))
        assert "15 images" in capsys.readouterr().out  # of 18, three are excluded by the run
        again = json.loads((tmp_path / "again.json").read_text())
        assert again[f"{split}/loss"] == pytest.approx(metrics[f"{split}/loss"], abs=1e-6)
        known = [name for name in again if name in metrics and not name.endswith("/loss")]
        assert {f"{split}/acc", f"{split}/f1"} <= {*known}
        assert [again[name] for name in known] == [metrics[name] for name in known]
    evaluate(asked("evaluate", trained, "split=all"))
    assert "63 images" in capsys.readouterr().out


def share_right(run: Path, images: Path) -> float:
    """Accuracy of the predictions for images whose names begin with their class."""
    rows = predict(asked("predict", run, f"input={images}"))
    return sum(Path(row["path"]).stem.startswith(row["prediction"]) for row in rows) / len(rows)


def test_a_table_is_measured_whole(trained_on_a_table, photos, tmp_path, capsys):
    root = write_table(tmp_path / "new", photos, {"red": range(3), "blue": range(2, 3)})
    metrics = measured(trained_on_a_table, root)
    assert "4 images" in capsys.readouterr().out
    assert metrics["all/acc"] == pytest.approx(share_right(trained_on_a_table, root / "images"), abs=1e-6)
    with pytest.raises(UserError, match=r"split=test: .* is not split"):
        measured(trained_on_a_table, root, "split=test")
    other = write_table(tmp_path / "other", photos, {"red": range(2), "violet": range(2)})
    with pytest.raises(UserError, match="violet is no class of this run"):
        measured(trained_on_a_table, other)
    (root / "labels.csv").write_text("id,label\nred0,\n")
    with pytest.raises(UserError, match="no image to measure"):
        measured(trained_on_a_table, root)


def test_a_run_on_a_table_is_measured_on_a_folder(trained_on_a_table, folder, capsys):
    root = folder({"red": 3, "green": 1})
    metrics = measured(trained_on_a_table, root)
    assert "4 images" in capsys.readouterr().out
    assert metrics["all/acc"] == pytest.approx(predicted(trained_on_a_table, root)["acc"], abs=1e-6)
    with pytest.raises(UserError, match=r"neither a table labels\.csv, .* nor a folder of one of its classes"):
        measured(trained_on_a_table, root / "red")


def test_a_run_on_a_table_is_measured_on_another_table_with_the_keys_that_are_named(
    trained_on_a_table, trained, photos, tmp_path, capsys
):
    root = write_table(tmp_path / "other", photos, {"red": range(3), "green": range(3)})
    (root / "images").rename(root / "my test")
    (root / "labels.csv").rename(root / "test.csv")
    (root / "test.csv").write_text((root / "test.csv").read_text().replace("id,label", "file,kind"))
    with pytest.raises(UserError, match=r"data\.labels=FILE"):
        measured(trained_on_a_table, root)
    with pytest.raises(UserError, match="give ") as caught:
        measured(trained_on_a_table, root, "data.labels=test.csv")
    named = shlex.split(str(caught.value).rpartition("give ")[2])
    assert {each.partition("=")[0] for each in named} == {"data.images", "data.image_column", "data.label_column"}
    (root / "fewer.csv").write_text((root / "test.csv").read_text().rpartition("\n")[0])
    for table, number in (("test.csv", 6), ("fewer.csv", 5)):
        keys = (f"data.root={root}", f"data.labels={table}", *named, f"output={tmp_path}/out/m.json")
        evaluate_and_print(asked("evaluate", trained_on_a_table, *keys))
        assert f"{number} images" in capsys.readouterr().out
    found = [json.loads(file.read_text())["images"] for file in sorted((tmp_path / "out").glob("evaluation_*"))]
    assert sorted(found) == [5, 6]
    with pytest.raises(UserError, match=r"data\.labels is for another folder"):
        evaluate(asked("evaluate", trained_on_a_table, "data.labels=test.csv"))


def test_a_run_on_folders_is_measured_on_a_table(trained, photos, tmp_path, capsys):
    root = write_table(tmp_path / "other", photos, {"red": range(3), "green": range(2, 4)})
    metrics = measured(trained, root, "data.labels=labels.csv")
    assert "5 images (all of" in capsys.readouterr().out
    assert metrics["all/acc"] == pytest.approx(share_right(trained, root / "images"), abs=1e-6)
    with pytest.raises(UserError, match=r"data\.label_column=label"):
        measured(trained, root, "data.label_column=kind")
