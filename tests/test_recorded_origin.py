"""What a run's record says that it was composed from, and how the comparison reads it."""

import json
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf, open_dict

import tlab
from tlab.comparison.compare import compare_runs
from tlab.config.provenance import command_overrides, origin
from tlab.runs.directory import RunDirectory
from tlab.train import run as train_command

QUICK = (
    *("data.batch_size=12", "data.num_workers=0", "backbone.weights=null", "backbone.upto=layer1", "trainer=cpu"),
    *("trainer.precision=32-true", "trainer.max_epochs=1", "finetune=full", "logger=none"),
)


def record(directory):
    return json.loads((Path(directory) / "run.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def photo_set(tmp_path_factory):
    """The name of a folder that needs quotes, made by the tests that use it."""
    return tmp_path_factory.mktemp("sets") / "my photos, (all) of them"


@pytest.fixture(scope="module")
def both(photos, photo_set, tmp_path_factory):
    """A folder with the same run twice: typed at the command line, and made in Python."""
    from hydra.core.global_hydra import GlobalHydra

    from tlab.command import run_command

    photo_set.symlink_to(photos)
    folder = tmp_path_factory.mktemp("both")
    given = (f"data.root={photo_set}", "data.image_size=32", "aug=strong", "optimizer={lr: 0.02}", *QUICK)
    with pytest.MonkeyPatch.context() as patch:
        quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none")
        patch.setattr("sys.argv", ["tlab", *given, f"hydra.run.dir={folder / 'typed'}", *quiet])
        run_command(train_command, "train")
        GlobalHydra.instance().clear()
        patch.setattr("sys.argv", ["kernel", "-f", "kernel.json"])
        tlab.fit(tlab.compose(given, f"run_dir={folder / 'python'}"))
        tlab.fit(tlab.compose(f"data.root={photos}", "seed=1", *QUICK, f"hydra.run.dir={folder / 'other'}"))
    return folder


def test_a_run_from_python_says_the_same_as_the_typed_one(both):
    typed, python = record(both / "typed"), record(both / "python")
    assert python["choices"] == typed["choices"]
    assert python["choices"]["aug"] == "strong"
    assert RunDirectory(both / "python").overrides() == RunDirectory(both / "typed").overrides()
    assert "hydra" not in python["config"]
    assert "hydra" not in OmegaConf.load(both / "python" / ".hydra" / "config.yaml")


def test_the_recorded_command_repeats_the_run(both, run_entry_point):
    before = record(both / "python")
    arguments = shlex.split(before["command"])
    assert not any("kernel" in each for each in arguments)
    run_entry_point(train_command, "train", *arguments)
    assert record(both / "python")["started"] == before["started"]  # it was finished: its result
    (both / "python" / "metrics.json").unlink()
    tlab.fit(tlab.compose([each.replace("hydra.run.dir", "run_dir") for each in arguments]))
    assert RunDirectory(both / "python").status == "finished"


def test_both_are_one_setting_of_the_comparison(both):
    comparison = compare_runs(both)
    levels = {run.name: setting.levels for setting in comparison.settings for run in setting.runs}
    assert levels["typed"] == levels["python"]
    names = [factor.name for factor in comparison.factors]
    assert dict(zip(names, levels["other"], strict=True))["data.image_size"] == "224"
    assert dict(zip(names, levels["other"], strict=True))["aug"] == "light"
    assert "${" not in str([factor.levels for factor in comparison.factors])


def test_values_set_in_python_are_recorded_as_if_typed(photos, monkeypatch):
    asked = []
    monkeypatch.setattr("tlab.train.train", lambda cfg: asked.append(origin(cfg)) or {})
    cfg = tlab.compose(f"data.root={photos}", "optimizer.lr=0.5", "aug=strong", "finetune=lp_ft", "sweep='a (b)'")
    cfg.optimizer.lr = 0.25
    cfg.backbone.upto = "layer1"
    cfg.data.tests = {"fog": f"{photos}/my fog, (2)"}
    with open_dict(cfg):
        del cfg.finetune.phases["head"]
    for _ in range(2):  # in one process
        tlab.fit(cfg)
    tlab.fit(OmegaConf.create(OmegaConf.to_container(cfg)))  # as read from a file
    assert asked[0] == asked[1] == asked[2]
    given = asked[0].overrides
    assert given[:3] == [f"data.root={photos}", "aug=strong", "finetune=lp_ft"]
    assert {"optimizer.lr=0.25", "backbone.upto=layer1", "~finetune.phases.head"} < set(given)
    again, this = map(OmegaConf.to_container, (tlab.compose(shlex.split(asked[0].command)), cfg))
    assert {key for key in this | again if again[key] != this[key]} <= {"run_dir", "hydra", "sweep"}


def test_choices_of_ones_own_are_found_again_and_a_place_set_in_python_is_recorded(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("tlab.train.train", lambda cfg: asked.append(origin(cfg)) or {})
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\nseed: 7\n")
    given = (f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine", "data.root=x")
    cfg = tlab.compose(*given)
    tlab.fit(cfg)
    assert "run.dir" not in asked[0].command
    cfg.run_dir = str(tmp_path / "my run")
    cfg.optimizer.lr = 0.25
    tlab.fit(cfg)
    again = tlab.compose(shlex.split(asked[1].command))
    assert (again.seed, again.optimizer.lr, again.run_dir) == (7, 0.25, str(tmp_path / "my run"))


def test_a_configuration_of_elsewhere_trains_with_nothing_recorded(compose_quick, tmp_path):
    tlab.fit(compose_quick("trainer.max_epochs=1", "finetune=full", run_dir=tmp_path / "run"))
    assert record(tmp_path / "run")["choices"] == {}
    assert RunDirectory(tmp_path / "run").overrides() == []


def test_what_a_typed_override_refers_to_is_recorded_as_typed(run_entry_point, monkeypatch):
    monkeypatch.setenv("SECRET", "1234")
    told = []
    run_entry_point(lambda cfg: told.extend(command_overrides()), "train", "callbacks.x=${oc.env:SECRET}", "seed=1")
    assert told == ["callbacks.x=${oc.env:SECRET}", "seed=1"]


def test_a_secret_of_the_environment_is_written_nowhere(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    asks = ("logger=csv", "logger.csv.name=${oc.env:SECRET}")  # csv keeps hyper-parameters, as do other loggers
    given = (*(each for each in QUICK if each != "logger=none"), "data.image_size=32", f"data.root={photos}", *asks)
    tlab.fit(tlab.compose(given, f"run_dir={tmp_path / 'run'}"))
    files = {file for file in tmp_path.rglob("*") if file.is_file()}
    assert {"run.json", "hparams.yaml", "best.ckpt"} < {file.name for file in files}
    assert [file.name for file in files if b"hunter2" in file.read_bytes()] == []
