"""Probabilities of runs: temperature, calibrate=, evaluation_<split>.json, the reliability diagram."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tlab
from tlab.config.hydra import compose
from tlab.core.errors import UserError
from tlab.evaluate import measure
from tlab.evaluate import run as evaluate_and_print
from tlab.models.calibration.temperature import fit_temperature
from tlab.predict import predict
from tlab.runs.directory import RunDirectory
from tlab.runs.load import load_trained
from tlab.train import train

NAMES = {"accuracy", "ece", "nll", "brier", "balanced_accuracy", "macro_f1", "auroc", "kappa"}


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory) -> RunDirectory:
    """A run whose labels are partly wrong, so that a temperature can lower the loss."""
    root = tmp_path_factory.mktemp("noisy")
    for split in ("train", "val", "test"):
        files = sorted((photos / split).rglob("*.png"))
        for number, file in enumerate(files):
            label = files[(number * 7) % len(files)].parent.name if number % 3 == 0 else file.parent.name
            (root / split / label).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, root / split / label / f"{file.parent.name}{file.name}")
    quick = (
        *("data.image_size=32", "data.batch_size=12", "data.num_workers=0", "backbone.weights=null", "trainer=cpu"),
        *("trainer.precision=32-true", "trainer.max_epochs=3", "finetune=head", "head.solver=sgd", "aug=none"),
        *("optimizer.lr=0.1", f"data.root={root}", f"run_dir={root / 'run'}"),
    )
    train(compose([*quick]))
    return RunDirectory(root / "run")


def about(file: Path) -> dict:
    return torch.load(file, weights_only=True)["tlab"]


def asked(command: str, run: Path, *overrides: str):
    return compose([f"run={run}", "num_workers=0", "accelerator=cpu", *overrides], command)


def val_logits(file: Path, root: Path):
    """Logits and labels of the validation images, by the Python interface."""
    model = tlab.load(file, accelerator="cpu")
    files = sorted((root / "val").rglob("*.png"))
    labels = torch.tensor([model.classes.index(each.parent.name) for each in files])
    with torch.inference_mode():
        return torch.cat([model.module(x) for x in model._batches(files)]).numpy(), labels.numpy()


def test_a_run_keeps_the_temperature_of_its_best_weights(run):
    told, record, metrics = about(run.best), run.record, run.metrics()
    assert told["temperature"] == record["temperature"] != 1
    assert record["calibration"].items() <= told["calibration"].items()
    expected = fit_temperature(*val_logits(run.best, run.path.parent))
    assert told["temperature"] == pytest.approx(expected["temperature"], rel=1e-3)
    assert told["calibration"]["lowers_nll"] == expected["calibration"]["lowers_nll"]
    scaled = "_scaled" if told["calibration"]["lowers_nll"] else ""
    for name in ("nll", "ece"):
        assert metrics[f"val/{name}"] == pytest.approx(expected["calibration"][f"{name}{scaled}"], rel=1e-3)
    assert not any("nll" in column for row in run.history() for column in row)
    best = int(metrics["best_epoch"])
    assert ("temperature" in about(run.last)) == (best == metrics["epochs"] - 1)  # of these weights, or none


@pytest.mark.parametrize("calibrate", ["true", "false", "auto"])
def test_predict_scales_probabilities_and_changes_no_prediction(run, calibrate):
    rows = predict(asked("predict", run.path, f"input={run.path.parent / 'val'}", f"calibrate={calibrate}"))
    logits, _ = val_logits(run.best, run.path.parent)
    told = about(run.best)
    wanted = {"true": True, "false": False, "auto": told["calibration"]["lowers_nll"]}[calibrate]
    shares = torch.tensor(logits / (told["temperature"] if wanted else 1)).softmax(dim=1)
    by_path = {row["path"]: row for row in rows}
    files = sorted((run.path.parent / "val").rglob("*.png"))
    classes = told["classes"]
    for file, row, logit in zip(files, shares.tolist(), logits, strict=True):
        assert by_path[str(file)]["prediction"] == classes[logit.argmax()]
        assert [float(by_path[str(file)][f"p({name})"]) for name in classes] == pytest.approx(row, abs=2e-5)


def test_evaluate_writes_measures_with_intervals_beside_the_run(run, capsys):
    evaluate_and_print(asked("evaluate", run.path, "calibrate=true"))
    printed = capsys.readouterr().out
    found = json.loads((run.path / "evaluation_test.json").read_text())
    assert found.keys() >= NAMES
    for name in NAMES:
        assert set(found[name]) == {"value", "low", "high"}
    metrics = run.metrics()
    assert found["accuracy"]["value"] == pytest.approx(metrics["test/acc"])
    assert found["macro_f1"]["value"] == pytest.approx(metrics["test/f1"])
    assert found["temperature"]["without"]["nll"]["value"] == pytest.approx(metrics["test/loss"], rel=1e-4)
    assert found["nll"] == found["temperature"]["with"]["nll"] != found["temperature"]["without"]["nll"]
    assert {name: found[name] for name in ("test/acc", "test/loss")} == pytest.approx(
        {name: metrics[name] for name in ("test/acc", "test/loss")}
    )
    for words in ("ECE", "AUROC", "95 % interval", f"temperature {about(run.best)['temperature']:.3g}, applied"):
        assert words in printed
    plain = measure(asked("evaluate", run.path, "calibrate=false"))
    assert plain.plain()["ece"] == found["temperature"]["without"]["ece"]
    assert plain.plain()["accuracy"] == found["accuracy"]


def test_files_of_other_images_and_places_have_names_of_their_own(run, tmp_path, capsys):
    own = (run.path / "evaluation_test.json").read_bytes() if (run.path / "evaluation_test.json").exists() else None
    shutil.copytree(run.path.parent / "test/red", tmp_path / "new set/red")
    evaluate_and_print(asked("evaluate", run.path, f"data.root={tmp_path / 'new set'}"))
    assert "no image of blue, green" in capsys.readouterr().out
    found = json.loads((run.path / "evaluation_all_of_new set.json").read_text())
    assert found["absent_classes"] == ["blue", "green"]
    assert found["auroc"] is None
    assert found["accuracy"]["value"] is not None
    assert own is None or (run.path / "evaluation_test.json").read_bytes() == own
    evaluate_and_print(asked("evaluate", run.path, "split=val", f"output={tmp_path / 'out/m.json'}"))
    flat = json.loads((tmp_path / "out/m.json").read_text())
    assert all(isinstance(value, float) for value in flat.values())
    assert json.loads((tmp_path / "out/evaluation_val.json").read_text()).items() >= flat.items()
    evaluate_and_print(asked("evaluate", run.path, "split=val", f"output={tmp_path / 'out/evaluation_val.json'}"))
    assert json.loads((tmp_path / "out/evaluation_val.json").read_text()).items() >= flat.items()


def test_no_evaluation_takes_the_place_of_another(run, tmp_path):
    def images(name, *overrides):
        """Name of what is written anew -> number of its images."""
        before = {file.name: file.read_bytes() for file in tmp_path.glob("*.json")}
        evaluate_and_print(asked("evaluate", tmp_path / name, *overrides))
        now = {file.name: file.read_bytes() for file in tmp_path.glob("*.json")}
        assert all(now[file] == content for file, content in before.items())
        return {file: json.loads(content)["images"] for file, content in now.items() if file not in before}

    for name in ("best.ckpt", "last.ckpt"):
        shutil.copyfile(run.best, tmp_path / name)
    for site, number in (("a", 1), ("b", 2), ("c/b", 3)):
        for file in [*(run.path.parent / "test/red").iterdir()][:number]:
            (tmp_path / site / "photos/red").mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / site / "photos/red")
    assert images("best.ckpt") == {"evaluation_test.json": 18}
    assert images("last.ckpt") == {"evaluation_test_last.json": 18}
    a, b, other_b = (f"data.root={tmp_path / site / 'photos'}" for site in ("a", "b", "c/b"))
    assert images("best.ckpt", a) == {"evaluation_all_of_photos.json": 1}
    assert images("best.ckpt", b) == {"evaluation_all_of_photos_b.json": 2}
    assert [*images("best.ckpt", other_b).values()] == [3]
    assert images("last.ckpt", b) == {"evaluation_all_of_photos_b_last.json": 2}
    first, second, _ = sorted(file.name for file in (tmp_path / "c/b/photos/red").iterdir())
    less, least = (
        (other_b, f"data.exclude={names}") for names in (f"['*/{first}']", f"['*/{first}','*/{second}']")
    )
    assert images("best.ckpt", *less) == {f"evaluation_all_of_photos_without_{first}.json": 2}
    assert images("best.ckpt", *least) == {f"evaluation_all_of_photos_without_{first}_{second}.json": 1}
    same_words = images("best.ckpt", other_b, f"data.exclude=['**/{first}']")
    assert [*same_words.values()] == [2]
    for again in (["best.ckpt", *least], ["best.ckpt", a], ["best.ckpt", other_b], ["last.ckpt", b]):
        assert images(*again) == {}
    of_earlier = tmp_path / "evaluation_all_of_photos.json"  # with a table, of a version that had no choices
    content = json.loads(of_earlier.read_text())
    content["labels"] = str(tmp_path / "labels.csv")
    del content["choices"]
    of_earlier.write_text(json.dumps(content))
    assert [*images("best.ckpt", a).values()] == [1]


def test_the_run_s_own_root_is_no_other_folder(run, tmp_path):
    checkpoint = shutil.copyfile(run.best, tmp_path / "my.ckpt")
    evaluate_and_print(asked("evaluate", checkpoint, f"data.root={run.path.parent}/./"))
    assert [each.name for each in tmp_path.glob("*.json")] == ["evaluation_test.json"]


def test_fewer_images_of_the_run_s_own_root_are_not_its_own_images(run, tmp_path):
    checkpoint = shutil.copyfile(run.best, tmp_path / "my.ckpt")
    root = f"data.root={run.path.parent}"
    evaluate_and_print(asked("evaluate", checkpoint, root, "data.exclude=['*0.png']"))
    (fewer,) = tmp_path.glob("*.json")
    assert fewer.name == f"evaluation_test_of_{run.path.parent.name}_without_0.png.json"
    assert json.loads(fewer.read_text())["choices"] == {"exclude": ["*0.png"]}
    evaluate_and_print(asked("evaluate", checkpoint, root, "data.exclude=[]"))
    assert {file.name for file in tmp_path.glob("*.json")} == {fewer.name, "evaluation_test.json"}


@pytest.mark.parametrize("moved", [False, True])
def test_the_evaluation_of_refitted_weights_leaves_that_of_the_best_epoch(run, tmp_path, moved):
    copy = RunDirectory(Path(shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("*.json"))))
    evaluate_and_print(asked("evaluate", copy.path))
    before = (copy.path / "evaluation_test.json").read_bytes()
    if moved:
        copy = RunDirectory(copy.path.rename(tmp_path / "moved"))
        evaluate_and_print(asked("evaluate", copy.path))
        assert [file.name for file in copy.path.glob("*.json")] == ["evaluation_test.json"]
        return
    shutil.copyfile(copy.last, copy.refit)
    evaluate_and_print(asked("evaluate", copy.path))
    assert (copy.path / "evaluation_test.json").read_bytes() == before
    found = json.loads((copy.path / "evaluation_test_refit.json").read_text())
    assert Path(found["checkpoint"]).name == "refit.ckpt"


def test_what_is_no_number_is_null(run, tmp_path, monkeypatch):
    found = measure(cfg := asked("evaluate", run.path, f"output={tmp_path}/flat.json"))
    odd = replace(found, metrics=found.metrics | {"test/loss": float("nan")})
    monkeypatch.setattr("tlab.evaluate.measure", lambda cfg: odd)
    evaluate_and_print(cfg)
    for name in ("evaluation_test", "flat"):
        found = json.loads((tmp_path / f"{name}.json").read_text(), parse_constant=pytest.fail)
        assert found["test/loss"] is None
        assert found["test/acc"] is not None


@pytest.mark.parametrize("file", ["with", "without"])
def test_a_checkpoint_alone_has_its_temperature_and_an_old_one_none(run, tmp_path, capsys, file):
    checkpoint = torch.load(run.best, weights_only=True)
    if file == "without":
        del checkpoint["tlab"]["temperature"], checkpoint["tlab"]["calibration"]
    torch.save(checkpoint, tmp_path / "my.ckpt")
    evaluate_and_print(asked("evaluate", tmp_path / "my.ckpt", "calibrate=true"))
    found = json.loads((tmp_path / "evaluation_test.json").read_text())
    assert found["temperature"]["value"] == (1 if file == "without" else run.record["temperature"])
    assert ("temperature 1: " in capsys.readouterr().out) == (file == "without")
    assert tlab.load(tmp_path / "my.ckpt").temperature == (
        1 if file == "without" else tlab.load(run.path).temperature
    )


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), "2", True, [1.0]])
def test_a_temperature_that_is_none_is_refused(run, tmp_path, value):
    checkpoint = torch.load(run.best, weights_only=True)
    checkpoint["tlab"]["temperature"] = value
    torch.save(checkpoint, tmp_path / "odd.ckpt")
    with pytest.raises(UserError, match=r"temperature in .* is none that a network has"):
        load_trained(tmp_path / "odd.ckpt")


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_calibrate_is_true_false_or_auto(run, command):
    more = ["input=."] if command == "predict" else []
    with pytest.raises(UserError, match="calibrate=maybe is not one of"):
        (predict if command == "predict" else measure)(asked(command, run.path, *more, "calibrate=maybe"))


def test_the_reliability_of_the_best_weights_is_drawn(run):
    board = EventAccumulator(str(run.path), {"images": 0}).Reload()
    assert len(board.Images("val/reliability")) == 1


def test_the_loss_that_trains_does_not_matter(compose_run, tmp_path):
    cfg = compose_run(
        "finetune=head", "trainer.max_epochs=1", "loss._target_=torch.nn.BCEWithLogitsLoss", "~loss.label_smoothing"
    )
    train(cfg)
    directory = RunDirectory(tmp_path / "run")
    nll = directory.record["calibration"]["nll"]
    scaled = fit_temperature(*val_logits(directory.best, Path(cfg.data.root)))["calibration"]
    assert nll == pytest.approx(scaled["nll"], rel=1e-3) != directory.metrics()["val/loss"]
