"""Runs of an earlier version are still good: they are evaluated, continued and compared as that version would have.

`old_runs/make.py` says what they are, and how they were made.
"""

import csv
import json
import shlex
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from rich.console import Console

from forked_command import run_forked
from old_runs.make import arithmetic
from tlab.comparison.write import compare
from tlab.config.hydra import compose
from tlab.config.overrides import as_override
from tlab.evaluate import evaluate
from tlab.predict import predict
from tlab.runs.directory import RunDirectory
from tlab.train import train

ARCHIVE = Path(__file__).parent / "old_runs/7cb74a4.tar.xz"
WHOLE = ["gradual/whole", "stopping/whole", "outputs/multirun/old/optimizer.lr=0.1/seed=0"]
TIMES = ("seconds", "images_per_second", "fit_seconds")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the archive; paths inside now name the folder that it is in."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    before = json.loads((folder / "made.json").read_text(encoding="utf-8"))["place"]
    for file in folder.rglob("*"):
        if file.suffix in (".json", ".yaml"):
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace(before, str(folder)), encoding="utf-8")
        elif file.suffix == ".ckpt":
            torch.save(moved(torch.load(file, weights_only=True), before, str(folder)), file)
    return folder


def moved(value: Any, before: str, after: str) -> Any:
    """Replace a path in nested plain data, in place."""
    if isinstance(value, str):
        return value.replace(before, after)
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            value[key] = moved(item, before, after)
    return value


@pytest.fixture
def again(old: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], DictConfig]:
    """Compose the same command again for a run."""
    monkeypatch.chdir(old)
    monkeypatch.setenv("TLAB_CORES", "1")

    def compose_(name: str) -> DictConfig:
        return compose([*RunDirectory(old / name).overrides(), as_override("run_dir", str(old / name))])

    return compose_


@pytest.fixture(scope="module")
def same_bits(old: Path) -> bool:
    """Whether this machine computes as the one that the runs were made on."""
    made = json.loads((old / "made.json").read_text(encoding="utf-8"))
    return made["torch"] == torch.__version__ and made["arithmetic"] == arithmetic()


def untouched(folder: Path) -> dict[Path, int]:
    """The times of a run's files, without those that each command writes to the end of."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name not in ("output.txt", "train.log"))
    return {file: file.stat().st_mtime_ns for file in files}


def table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in TIMES}


@pytest.mark.parametrize("name", WHOLE)
def test_a_finished_run_returns_its_result(old, again, name):
    before = untouched(old / name)
    assert train(again(name)) == RunDirectory(old / name).metrics()
    assert untouched(old / name) == before


@pytest.mark.parametrize("name", WHOLE)
def test_a_run_is_evaluated_and_predicts(old, name):
    metrics = RunDirectory(old / name).metrics()
    measured = evaluate(compose([f"run='{old / name}'"], "evaluate"))
    assert measured == {key: pytest.approx(metrics[key], rel=1e-4) for key in measured}
    rows = predict(compose([f"run='{old / name}'", f"input={old / 'photos/test'}"], "predict"))
    assert len(rows) == 6
    right = [row["prediction"] == Path(row["path"]).parent.name for row in rows]
    assert sum(right) / len(right) == pytest.approx(metrics["test/acc"])


@pytest.mark.parametrize(
    ("stopped", "whole"),
    [
        ("gradual/head", "gradual/whole"),
        ("gradual/layer1", "gradual/whole"),
        ("gradual/stem", "gradual/whole"),
        ("stopping/all", "stopping/whole"),
    ],
)
def test_a_stopped_run_goes_on_and_ends_as_it_would_have(old, again, same_bits, stopped, whole):
    run, other = RunDirectory(old / stopped), RunDirectory(old / whole)
    assert run.status in ("running", "failed")
    begun = run.history()
    metrics = train(again(stopped))
    assert run.history()[: len(begun)] == begun
    assert [row["phase"] for row in run.history()] == [row["phase"] for row in other.history()]
    if same_bits:
        assert timeless(metrics) == timeless(other.metrics())
        assert [*map(timeless, run.history())] == [*map(timeless, other.history())]
    for mine, theirs in ((run.best, other.best), (run.last, other.last)):
        weights, expected = (torch.load(file, weights_only=True)["state_dict"] for file in (mine, theirs))
        assert weights.keys() == expected.keys()
        away = {key: float((weights[key] - expected[key]).abs().max()) for key in weights}
        assert {key: distance for key, distance in away.items() if distance > (0 if same_bits else 1e-5)} == {}


def test_a_sweep_is_compared_as_before(old, tmp_path):
    sweep = old / "outputs/multirun/old"
    compare(sweep, output=tmp_path, console=Console(quiet=True))
    before, after = table(sweep / "comparison.csv"), table(tmp_path / "comparison.csv")
    kept = [key for key in before[0] if key not in ("p", "p_holm")]  # which allow for the number of images since
    assert [{key: row[key] for key in kept} for row in after] == [{key: row[key] for key in kept} for row in before]
    p_values = [(now["p"], then["p"]) for now, then in zip(after, before, strict=True) if then["p"]]
    assert all(float(now) >= float(then) for now, then in p_values)


def test_the_command_of_a_sweep_returns_what_is_finished(old):
    sweep = old / "outputs/multirun/old"
    before = {run: untouched(run.parent) for run in sweep.glob("*/seed=*/run.json")}
    command = json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))["command"]
    result = run_forked("tlab.train", *shlex.split(command), cwd=old)
    assert result.returncode == 0, result.stderr
    assert len(before) == 4
    assert {run: untouched(run.parent) for run in before} == before
