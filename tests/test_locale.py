"""Names and terminals that are not UTF-8, through whole commands."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tlab import predict
from tlab.config.hydra import compose
from tlab.train import train


@pytest.fixture
def odd_photos(photos: Path, tmp_path: Path) -> Path:
    """Return `photos` with a class beyond ASCII, one whose name is Latin-1, and such a file that is no image."""
    root = tmp_path / "фото"
    shutil.copytree(photos, root)
    for split in ("train", "val", "test"):
        (root / split / "red").rename(root / split / "café")
        (root / split / "blue").rename(root / split / os.fsdecode(b"b\xe9"))
    (root / "val/green/00.png").rename(root / "val/green" / os.fsdecode(b"\xff\r\n.png"))
    (root / "train/green" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"no image")
    return root


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
def test_names_of_any_bytes_survive_training_and_prediction(odd_photos, compose_run, tmp_path):
    options = (f"data.root={odd_photos}", "logger=tensorboard")
    metrics = train(compose_run(*options))
    record = json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))
    assert record["class_names"] == [r"b\xe9", "café", "green"]
    with (tmp_path / "run/data.csv").open(encoding="utf-8", newline="") as file:
        paths = {row["path"] for row in csv.DictReader(file)}
    assert {"val/green/\\xff\r\n.png", r"test/b\xe9/00.png", "test/café/00.png"} <= paths
    assert r"train/green/caf\xe9.png" in (tmp_path / "run/unreadable.csv").read_text(encoding="utf-8")
    assert train(compose_run(*options)) == metrics  # the same images, as far as its list tells
    keys = (f"run={tmp_path}/run", f"input={odd_photos}/val", f"output={tmp_path}/прогноз.csv", "num_workers=0")
    predict.run(compose(keys, "predict"))
    with (tmp_path / "прогноз.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 18
    assert rows[0].keys() >= {r"p(b\xe9)", "p(café)"}


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
def test_a_run_is_the_same_where_nothing_is_utf_8(odd_photos, tmp_path):
    """All that is not ASCII is escaped on the terminal, and files are UTF-8."""
    quick = (
        *("data.image_size=32", "data.num_workers=0", "backbone.weights=null", "finetune=head", "logger=none"),
        *("trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=2", "hydra.run.dir=прогон"),
    )
    command = [
        sys.executable,
        "-m",
        "tlab.train",
        f"data.root={odd_photos}",
        *quick,
        "data.exclude=[train/café/00.*]",
    ]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert rb"\xe9.png" in done.stdout
    assert b"matched no file" not in done.stdout
    record = json.loads((tmp_path / "прогон/run.json").read_text(encoding="utf-8"))
    assert (record["class_names"], record["status"]) == ([r"b\xe9", "café", "green"], "finished")
    assert r"train/green/caf\xe9.png" in (tmp_path / "прогон/train.log").read_text(encoding="utf-8")
