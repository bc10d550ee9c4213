"""Predictions of a trained run."""

import csv
import json
import os
import shutil

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import tlab
from tlab.assembly.build import build_data
from tlab.config.hydra import compose
from tlab.core.errors import UserError
from tlab.data.decode_options import Levels
from tlab.evaluate import evaluate
from tlab.predict import predict, run
from tlab.runs.directory import RunDirectory
from tlab.runs.load import load_trained
from tlab.train import train


@pytest.fixture
def ask(trained):
    """Return a function that composes what tlab.predict is asked."""
    common = {"batch_size": 5, "num_workers": 0, "accelerator": "cpu", "precision": None}
    return lambda **keys: OmegaConf.create({"run": str(trained), **common, **keys})


def test_a_row_per_image_in_order(ask, photos, tmp_path):
    folder = tmp_path / "new"
    for name in ("red", "blue"):
        shutil.copytree(photos / "test" / name, folder / "sub" / name)
    (folder / "notes.txt").write_text("no image")
    (folder / "broken.jpg").write_text("<html>")
    run(ask(input=str(folder), output=str(tmp_path / "preds.csv")))
    with (tmp_path / "preds.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert len(rows) == 13
    for row in rows:
        if row["path"].endswith("broken.jpg"):
            assert row["prediction"] == row["probability"] == ""
            continue
        shares = {name: float(row[f"p({name})"]) for name in ("blue", "green", "red")}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert row["prediction"] == max(shares, key=shares.get) == row["path"].split("/")[-2]
        assert float(row["probability"]) == max(shares.values())


def test_few_answers_are_printed(ask, photos, tmp_path, capsys):
    run(ask(input=str(photos / "test/green/00.png"), output=str(tmp_path / "p.csv")))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "00.png" in line]
    (row,) = csv.DictReader((tmp_path / "p.csv").open(encoding="utf-8"))
    assert line.endswith(f"00.png: {row['prediction']} ({float(row['probability']):.1%})")


def test_an_answer_that_is_no_number_is_no_prediction(give, trained, photos, tmp_path, caplog):
    content = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    for name, tensor in content["state_dict"].items():
        if name.startswith("net.head."):
            tensor.fill_(torch.nan)
    torch.save(content, tmp_path / "nan.ckpt")
    asked = ("run=nan.ckpt", f"input={photos}/test/red")
    for row in give(*asked):
        assert row.pop("path")
        assert "no finite number" in row.pop("reason")
        assert {*row.values()} == {""}
    give(*asked, "output=preds.jsonl", read=None)
    for line in (tmp_path / "preds.jsonl").read_text().splitlines():
        row = json.loads(line, parse_constant=pytest.fail)
        assert (row["prediction"], row["probability"], row["p(red)"], row["known"]) == (None,) * 4
    assert caplog.text.count("6 without a prediction: 00.png") == 2
    (tmp_path / "sample.csv").write_text("id,label\n00,\n")
    with pytest.raises(UserError, match=r"no finite number.*precision=32-true.*another run") as caught:
        give(*asked, "submission=sample.csv", read=None)
    assert "repair" not in str(caught.value)
    cfg = compose(["run=nan.ckpt", f"data.root={photos}", "num_workers=0", "accelerator=cpu"], "evaluate")
    with pytest.raises(UserError, match=r"run=nan\.ckpt.*no finite number.*precision=32-true.*another") as caught:
        evaluate(cfg)
    assert "optimizer" not in str(caught.value)


@pytest.mark.parametrize("name", ["p.xlsx", "p.parquet", "lr=0.1.txt", "p.csv.gz"])
def test_a_name_for_another_kind_of_table_is_refused(pasted, tmp_path, name):
    cfg = OmegaConf.create({"run": "r", "input": "photos", "output": str(tmp_path / name)})
    with pytest.raises(UserError, match="CSV table") as caught:
        run(cfg)
    (argument,) = pasted(str(caught.value).partition("; give ")[2])
    assert argument.rstrip('"').endswith(".csv")


def test_a_single_file_and_a_checkpoint(ask, trained, photos):
    (row,) = predict(ask(run=str(trained / "checkpoints/last.ckpt"), input=str(photos / "test/green/00.png")))
    assert row["prediction"] == "green"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"input": "/no/such"}, "input=/no/such does not exist"),
        ({"input": "."}, "holds no image file"),
        ({"run": "/no/such"}, "run=/no/such does not exist"),
    ],
)
def test_mistakes(ask, photos, tmp_path, monkeypatch, keys, words):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    with pytest.raises(UserError, match=words):
        predict(ask(**{"input": str(photos), **keys}))


def test_a_file_that_is_no_checkpoint_of_ours(ask, photos, tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    for name, words in {
        "other.ckpt": "is not a checkpoint of tlab",
        "text.ckpt": "no checkpoint|not a checkpoint",
    }.items():
        with pytest.raises(UserError, match=words):
            predict(ask(run=str(tmp_path / name), input=str(photos)))


def test_a_run_reads_deep_samples_as_it_has_learned_to(compose_run, photos, tmp_path, caplog):
    """12 bits in 16; a file that is cut short is predicted too, and says so."""
    deep, new = tmp_path / "deep", tmp_path / "new"
    for file in photos.rglob("*.png"):
        (target := deep / file.relative_to(photos)).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), cv2.imread(str(file)).astype(np.uint16) * 16)
    cfg = compose_run("finetune=head", "trainer.max_epochs=1", f"data.root={deep}")
    train(cfg)
    levels = Levels(integers=(0, 4095))
    assert load_trained(tmp_path / "run").decode_options.levels == levels
    assert build_data(cfg, RunDirectory(tmp_path / "run").record).levels == levels
    shutil.copytree(deep / "test/red", new)
    content = (new / "00.png").read_bytes()
    (new / "cut.png").write_bytes(content[: int(0.8 * len(content))])
    (new / "no.png").write_bytes(content[:100])
    cv2.imwrite(str(new / "wide.png"), np.arange(0, 64000, 40, np.uint16).reshape(40, 40))
    common = {"run": str(tmp_path / "run"), "batch_size": 5, "num_workers": 0, "accelerator": "cpu"}
    *rows, cut, no, _ = predict(OmegaConf.create({"input": str(new), "precision": None, **common}))
    flat = predict(OmegaConf.create({"input": str(photos / "test/red"), "precision": None, **common}))
    assert [{**row, "path": ""} for row in rows] == [{**row, "path": ""} for row in flat]
    assert cut["prediction"]
    assert no["prediction"] == ""
    assert "truncated" in cut["reason"]
    assert "truncated" in no["reason"]
    assert "1 predicted from the part" in caplog.text
    assert "far beyond 0 to 4095" in caplog.text
    model = tlab.load(tmp_path / "run", accelerator="cpu")
    cv2.imwrite(str(tmp_path / "gray.png"), gray := cv2.imread(str(new / "01.png"), cv2.IMREAD_UNCHANGED)[..., 0])
    in_three_forms = model.predict([tmp_path / "gray.png", Image.open(tmp_path / "gray.png"), gray])
    assert in_three_forms == 3 * in_three_forms[:1]
    assert model.predict(new / "cut.png")[0].label == cut["prediction"]
    assert "cut.png is cut short" in caplog.text


def test_the_table_goes_into_a_pipe(ask, photos, tmp_path, capsys):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    run(ask(input=str(photos / "test/green/00.png"), output=str(pipe)))
    assert os.read(reader, 9999).startswith(b"path,prediction,")
    os.close(reader)
    assert pipe.is_fifo()
    assert capsys.readouterr().out == ""
