"""What a checkpoint alone says of images that it does not know, and of how sure it is."""

import csv
import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tlab
from tlab.assembly.uncertainty import drawn
from tlab.config.hydra import compose
from tlab.core.errors import UserError
from tlab.evaluate import evaluate
from tlab.models.module import ImageClassifier
from tlab.predict import run as predict
from tlab.predictions.rows import joined
from tlab.predictions.table import Table
from tlab.runs import checkpoints
from tlab.runs.directory import RunDirectory
from tlab.train import train

QUICK = (
    *("data.image_size=32", "data.batch_size=12", "data.num_workers=0", "backbone.weights=null", "trainer=cpu"),
    *("trainer.precision=32-true", "trainer.max_epochs=2", "logger=none"),
)


def trained(photos, directory, *overrides):
    train(compose([*QUICK, *overrides, f"data.root={photos}", f"run_dir={directory}"]))
    return directory


def about(run, name="best"):
    return torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)["tlab"]


@pytest.fixture(scope="module")
def tuned(photos, tmp_path_factory):
    """A run whose backbone has trained too, so that no stored features are its own."""
    return trained(photos, tmp_path_factory.mktemp("tuned"), "finetune.head_epochs=1")


@pytest.fixture(scope="module")
def alone(tuned, tmp_path_factory):
    """A copy of its checkpoint, with nothing beside it."""
    return Path(shutil.copyfile(tuned / "checkpoints/best.ckpt", tmp_path_factory.mktemp("alone") / "model.ckpt"))


@pytest.fixture(scope="module")
def stripes(photos, tmp_path_factory):
    """Images of another kind, in folders of the same names."""
    folder = tmp_path_factory.mktemp("stripes")
    for number, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir()
        for width in range(1, 5):
            pixels = np.zeros((40, 40, 3), np.uint8)
            pixels[np.arange(40) // width % 2 == 0, :, number] = 255
            Image.fromarray(pixels).save(folder / name / f"{width}.png")
    return folder


def asked(command, run, *overrides):
    return compose([f"run={run}", "num_workers=0", "accelerator=cpu", *overrides], command)


def test_a_lone_checkpoint_knows_its_images_and_not_others(alone, photos, stripes):
    model = tlab.load(alone, accelerator="cpu")
    assert all(one.known for one in model.predict(photos / "val"))  # at least 95 % of 18
    assert sum(not one.known for one in model.predict(photos / "test")) <= 4
    assert not any(one.known for one in model.predict(stripes))
    assert {type(one.known) for one in model.predict(stripes)} == {bool}


def test_stored_features_say_the_same_as_those_computed_anew(photos, tmp_path):
    """Stored with training's own, stored beside augmented ones, or of one pass."""
    cases = {"stored": "aug=none", "beside": "aug=light", "anew": "features.cache=off"}
    solved = ("finetune=head", "trainer.max_epochs=1", "head.solver=sgd", "optimizer.lr=0")
    found = {}
    for name, override in cases.items():
        found[name] = about(trained(photos, tmp_path / name, *solved, override))["uncertainty"]
    for name in ("beside", "anew"):
        for key, value in found["stored"].items():
            torch.testing.assert_close(found[name][key], value, msg=f"{name}: {key}", rtol=1e-3, atol=1e-5)


def test_a_head_on_stored_features_writes_its_checkpoint_once(photos, tmp_path, monkeypatch):
    write, written = checkpoints.write_checkpoint, []
    monkeypatch.setattr(checkpoints, "write_checkpoint", lambda *a: written.append(a[1].name) or write(*a))
    trained(
        photos, tmp_path / "run", "finetune=head", "aug=none", "head.solver=sgd", "head.dropout=0.5", "refit=true"
    )
    assert written == ["best.ckpt", "refit.ckpt"]
    for name in ("best", "refit"):
        assert "uncertainty" in about(tmp_path / "run", name)


def test_one_image_is_one(alone, photos, tmp_path, capsys):
    for name in ("blue", "green", "red"):
        (tmp_path / "one" / name).mkdir(parents=True)
    shutil.copy(photos / "test/red/00.png", tmp_path / "one/red")
    evaluate(asked("evaluate", alone, f"data.root={tmp_path / 'one'}"))
    predicted(tmp_path, alone, tmp_path / "one")
    told = capsys.readouterr().out
    assert "1 image (" in told
    assert "1 prediction in" in told


@pytest.mark.slow
def test_two_processes_refit_and_know_as_one_does(photos, tmp_path):
    """With a head on stored features, and with a backbone that trains: nothing waits for the other process."""
    runs = {}
    several = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=6")
    plans = {"alone": ("finetune=head",), "head": ("finetune=head", *several), "full": ("finetune=full", *several)}
    for name, given in plans.items():
        more = ("trainer.max_epochs=1", "refit=true", "head.solver=sgd", "aug=none")
        runs[name] = trained(photos, tmp_path / name, *more, *given)
    one, alike = (about(runs[name])["uncertainty"] for name in ("alone", "head"))
    torch.testing.assert_close(alike["means"], one["means"])
    assert alike["thresholds"]["mahalanobis"] == pytest.approx(one["thresholds"]["mahalanobis"])
    for run in runs.values():
        record = RunDirectory(run).record
        assert record["refit"]["images"] == 54
        assert {"temperature", "calibration"} <= record.keys()
        model = tlab.load(run, accelerator="cpu")
        assert model.trained.checkpoint.name == "refit.ckpt"
        assert all(isinstance(each.known, bool) for each in model.predict(photos / "test", coverage=0.8))
        found = evaluate(asked("evaluate", run, "calibrate=true"))
        assert 0 <= found["test/unknown"] <= 1


def test_evaluate_tells_what_share_is_unknown_as_predict_does(alone, tuned, photos, stripes, tmp_path):
    for run in (alone, tuned):
        assert evaluate(asked("evaluate", run, f"data.root={stripes}"))["all/unknown"] == 1
    mixed = shutil.copytree(photos / "test", tmp_path / "mixed")
    for name in ("red", "green", "blue"):
        shutil.copyfile(stripes / name / "2.png", mixed / name / "stripes.png")
    share = evaluate(asked("evaluate", alone, f"data.root={mixed}"))["all/unknown"]
    predictions = tlab.load(alone, accelerator="cpu").predict(mixed)
    assert share == sum(not one.known for one in predictions) / len(predictions)


def test_a_run_whose_features_are_no_numbers_finishes_without(photos, tmp_path, monkeypatch, caplog):
    def spoil(module):
        for each in module.modules():
            if isinstance(each, torch.nn.BatchNorm2d):
                each.running_mean.fill_(torch.nan)

    monkeypatch.setattr(ImageClassifier, "on_validation_end", spoil)  # which would refuse them
    plan = ("finetune.head_epochs=0", "finetune.head_first=false", "trainer.max_epochs=1", "backbone.upto=layer1")
    few = "data.limit=4"  # of a larger matrix eigenvectors are found, whatever they are
    trained(photos / "train", tmp_path / "run", *plan, few)
    assert "best.ckpt cannot tell which images it knows" in caplog.text
    assert "uncertainty" not in about(tmp_path / "run")
    assert RunDirectory(tmp_path / "run").status == "finished"


def predicted(tmp_path, run, folder, *overrides, kind="csv"):
    """Give tlab.predict, and return the rows as text, or as JSON has them."""
    output = tmp_path / f"preds.{kind}"
    predict(asked("predict", run, f"input={folder}", f"output={output}", *overrides))
    with output.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines)) if kind == "csv" else [json.loads(line) for line in lines]


def test_rows_say_what_is_known_and_possible(alone, photos, stripes, tmp_path, capsys):
    folder = shutil.copytree(stripes, tmp_path / "images")
    (folder / "red/broken.png").write_text("<html>")
    rows = predicted(tmp_path, alone, folder, "coverage=0.9")
    assert [*rows[0]][-4:] == ["p(red)", "known", "set", "reason"]
    assert "12 predictions" in (told := capsys.readouterr().out)
    names = [str(Path(row["path"]).relative_to(folder)) for row in rows if row["prediction"]]
    assert f"100.0% unknown (false in the column known: {', '.join(names[:3])} and 9 more)" in told
    assert {row["known"] for row in rows if row["prediction"]} == {"false"}
    assert [(row["known"], row["set"]) for row in rows if not row["prediction"]] == [("", "")]
    parsed = predicted(tmp_path, alone, folder, "coverage=0.9", kind="jsonl")
    assert [row["known"] for row in parsed] == [{"": None, "false": False}[row["known"]] for row in rows]
    assert ["|".join(row["set"] or []) for row in parsed] == [row["set"] for row in rows]
    python = tlab.load(alone, accelerator="cpu").predict(stripes, coverage=0.9)
    sets = [tuple(row["set"]) for row in parsed if row["prediction"]]
    assert [one.prediction_set for one in python] == sets  # also of copies elsewhere
    for one in python:
        assert [*one.prediction_set] == sorted(one.probabilities, key=one.probabilities.get)[::-1][
            : len(one.prediction_set)
        ]
    assert [*predicted(tmp_path, alone, photos / "test/red")[0]][-2:] == ["known", "reason"]
    assert ", 0.0% unknown\n" in capsys.readouterr().out


def test_more_coverage_makes_larger_sets(alone, photos, tmp_path, caplog):
    model = tlab.load(alone, accelerator="cpu")
    sizes = [[len(one.prediction_set) for one in model.predict(photos, coverage)] for coverage in (0.3, 0.6, 0.94)]
    for smaller, larger in itertools.pairwise(sizes):
        assert all(one <= other for one, other in zip(smaller, larger, strict=True))
        assert sum(smaller) < sum(larger)
    assert not caplog.records
    rows = predicted(tmp_path, alone, photos / "val/red", "coverage=0.99", kind="jsonl")
    assert all(len(row["set"]) == 3 for row in rows)
    assert "coverage=0.99 needs 99 validation images, and 18 were there" in caplog.text


def test_a_continued_table_counts_unknown_images_of_both_parts(
    alone, photos, stripes, tmp_path, capsys, monkeypatch
):
    for name in ("red", "blue"):
        shutil.copytree(photos / "test" / name, tmp_path / "both" / name)
    shutil.copytree(stripes / "green", tmp_path / "both/a")
    whole = predicted(tmp_path, alone, tmp_path / "both", "batch_size=4")
    told = capsys.readouterr().out
    written = Table.write

    def stop(table, rows):
        written(table, rows)
        if table._count == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(Table, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        predicted(tmp_path, alone, tmp_path / "both", "batch_size=4")
    monkeypatch.undo()
    assert predicted(tmp_path, alone, tmp_path / "both", "batch_size=4") == whole
    assert capsys.readouterr().out == told
    assert "25.0% unknown" in told


def test_several_runs_vote(alone, photos, stripes, tmp_path):
    """One that knows nothing against one, and against two."""
    content = torch.load(alone, weights_only=True)
    content["tlab"]["uncertainty"]["thresholds"]["mahalanobis"] = float("inf")
    torch.save(content, other := tmp_path / "other.ckpt")
    for runs, known in ((f"[{alone},{other}]", "true"), (f"[{alone},{other},{other}]", "false")):
        rows = predicted(tmp_path, runs, photos / "val/red", "coverage=0.8")
        assert {row["known"] for row in rows} == {known}
        one = predicted(tmp_path, alone, photos / "val/red", "coverage=0.8")
        assert [row["set"] for row in rows] == [row["set"] for row in one]


def test_an_old_checkpoint_does_not_tell(alone, photos, tmp_path, caplog):
    content = torch.load(alone, weights_only=True)
    del content["tlab"]["uncertainty"]
    torch.save(content, old := tmp_path / "old.ckpt")
    rows = predicted(tmp_path, old, photos / "val/red")
    assert [*rows[0]][-2:] == ["p(red)", "reason"]
    (record,) = caplog.records
    assert "No column known" in record.message
    assert tlab.load(old, accelerator="cpu").predict(photos / "val/red")[0].known is None
    assert "all/unknown" not in evaluate(asked("evaluate", old, f"data.root={photos}", "split=all"))
    with pytest.raises(UserError, match=r"coverage=0.9: .*old.ckpt does not keep .* leave coverage out"):
        predicted(tmp_path, old, photos / "val/red", "coverage=0.9")
    content["tlab"]["uncertainty"] = {"means": torch.zeros(3, 7)}
    torch.save(content, old)
    with pytest.raises(UserError, match=r"old\.ckpt does not fit together"):
        tlab.load(old)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.5, 90, math.nan])
def test_a_coverage_that_is_none_is_refused(alone, photos, coverage):
    with pytest.raises(UserError, match="coverage"):
        predict(asked("predict", alone, f"input={photos}/val/red", f"coverage={coverage}"))
    with pytest.raises(UserError, match="coverage"):
        tlab.load(alone, accelerator="cpu").predict(photos / "val/red", coverage)


def test_sets_are_not_for_a_submission(alone, photos, tmp_path):
    with pytest.raises(UserError, match=r"coverage=0.9 is not for a submission.*leave it out"):
        predict(asked("predict", alone, f"input={photos}/val/red", f"submission={tmp_path}/s.csv", "coverage=0.9"))


def test_names_with_bars_and_quotes_survive_in_a_set():
    names = ["a|b", 'say "x"', "c,d", "e"]
    assert next(csv.reader([joined(names)], delimiter="|")) == names
    assert joined([]) == ""


@pytest.mark.parametrize("by_class", [True, False])
def test_images_are_drawn_alike_in_every_run(by_class):
    labels = torch.tensor([0] * 50 + [1] * 5 + [3] * 30)
    chosen = drawn(labels, 30, by_class)
    assert torch.equal(chosen, drawn(labels, 30, by_class))
    assert torch.equal(chosen, chosen.unique())
    assert {*drawn(labels, 20, by_class).tolist()} < {*chosen.tolist()}
    counts = torch.bincount(labels[chosen], minlength=4).tolist()
    assert counts in ([12, 5, 0, 13], [13, 5, 0, 12]) if by_class else counts != [13, 5, 0, 12]
    assert torch.equal(drawn(labels, 100, by_class), torch.arange(85))
