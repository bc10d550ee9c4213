"""What a `study.json` may make a search build, when nothing but its name is typed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from tlab.config.hydra import conf_dir, prepare_hydra
from tlab.core.errors import UserError
from tlab.runs.directory import RunDirectory
from tlab.search.study import Definition, read_definition, write_definition
from tlab.search.trial import check_trials, run_trial
from tlab.tune import define, open_study, with_config_dirs

QUICK = ["data=demo", "backbone.weights=null", "trainer.max_epochs=2"]
STUDY = Definition(
    fixed=QUICK,
    searched={"optimizer.lr": "0.1,0.2"},
    seeds=[0],
    monitor="val/acc",
    mode="max",
    storage=None,
    trials=2,
    sampler={"_target_": "optuna.samplers.RandomSampler", "seed": 0},
    pruner={"_target_": "optuna.pruners.NopPruner"},
)
EVIL = {"_target_": "torch.save", "obj": 1, "f": "evil"}
EVIL_TEXT = "{_target_: torch.save, obj: 1, f: evil}"


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """Compose a command of tlab.tune with `--config-dir mine`, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()

    def compose(*overrides: str) -> Any:
        cfg = hydra.compose("tune", ["study=s", *overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        return cfg

    prepare_hydra([])
    places = create_config_search_path(str(conf_dir()))
    places.append("command-line", f"file://{tmp_path / 'mine'}")
    places.get_path().append(places.get_path().pop(-2))  # the schema comes last
    Hydra.create_main_hydra2(task_name="test", config_search_path=places)
    yield compose
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


def leave(tmp_path: Path, **other: Any) -> None:
    write_definition(tmp_path / "outputs/tune/s", replace(STUDY, **other))


def test_a_study_goes_on_by_its_name(typed, tmp_path):
    leave(tmp_path)
    definition, space = define(typed())
    assert definition == STUDY
    assert list(space.fixed) == QUICK


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"sampler": EVIL}, r"sampler\._target_=torch\.save .* sampler=NAME"),
        ({"pruner": EVIL}, r"pruner\._target_=torch\.save .* pruner=NAME"),
        ({"sampler": {**STUDY.sampler, "seed": EVIL}}, r"sampler\.seed\._target_=torch\.save"),
        ({"sampler": {**STUDY.sampler, "_args_": [EVIL]}}, r"sampler\._args_"),
        ({"pruner": {**STUDY.pruner, "n": "${oc.env:HOME}"}}, r"pruner\.n="),
        ({"fixed": [*QUICK, "backbone._target_=torch.save"]}, r"backbone\._target_=torch\.save"),
        ({"fixed": [*QUICK, f"+optimizer.x={EVIL_TEXT}"]}, r"optimizer\.x\._target_=torch\.save"),
        (
            {"fixed": [*QUICK, "+optimizer.x=${oc.decode:'{_tar${.y}: torch.save}'}", "+optimizer.y=get_"]},
            "torch.save",
        ),
        ({"searched": {"+optimizer.x": f"{EVIL_TEXT},1"}}, r"optimizer\.x\._target_=torch\.save"),
        ({"fixed": [*QUICK, "hydra.searchpath=[pkg://a_strangers_package]"]}, r"hydra\.searchpath"),
        ({"searched": {"+hydra.searchpath": "[pkg://a_strangers_package],[]"}}, r"hydra\.searchpath"),
        ({"fixed": [*QUICK, "aug=../../{up}/strange"]}, r"strange|torch\.save"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_it_builds_what_conf_names_only(typed, tmp_path, monkeypatch, other, words):
    (tmp_path / "a_strangers_package.py").write_text("open('evil', 'w').close()\n")
    (tmp_path / "strange.yaml").write_text(f"transforms: {{mine: {EVIL_TEXT}}}\nmix: null\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    up = "/".join([".."] * len(conf_dir().parts)) + str(tmp_path)
    other = json.loads(json.dumps(other).replace("{up}", up))
    leave(tmp_path, **other)
    with pytest.raises(Exception, match=words) as error:
        define(typed())
    assert not isinstance(error.value, AssertionError | TypeError)
    assert not (tmp_path / "evil").exists()


def test_a_later_choice_is_held_against_the_same_list(typed, tmp_path):
    leave(tmp_path, searched={"+optimizer.x": f"1,{EVIL_TEXT}"})
    study = open_study(typed())
    study.optuna.enqueue_trial({"+optimizer.x": EVIL_TEXT.replace(" ", "")})
    with study.lease() as lease:
        run_trial(study, lease, lambda *_: pytest.fail("it trains"))
    (trial,) = study.trials()
    assert "optimizer.x._target_=torch.save" in trial.user_attrs["error"]
    assert not (tmp_path / "evil").exists()


def test_the_files_of_a_trial_build_nothing(typed, tmp_path):
    """Which images the trials had is looked up when a search goes on; the trial's settings are the study's."""
    leave(tmp_path)
    study = open_study(typed())
    with study.lease() as lease:
        run = RunDirectory(lease.directory / "seed=0")
        evil = [f"++data.source.{key}" for key in ("_target_=torch.save", "_partial_=true", "obj=1", "f=evil")]
        run.write_config("", [*QUICK, "optimizer.lr=0.1", "seed=0", *evil])
        run.update(status="running", class_names=[], data={"images": {"train": 1}})
    with pytest.raises(UserError, match="other images than there are now"):
        check_trials(study, "auto")
    assert not (tmp_path / "evil").exists()


def test_ones_own_sampler_and_steps_go_on_when_they_are_typed(typed, tmp_path):
    for group, text in {
        "sampler": "_target_: optuna.samplers.BruteForceSampler\nseed: 0\n",
        "aug": "transforms: {mine: {_target_: torchvision.transforms.v2.RandomSolarize, threshold: 9}}\n",
    }.items():
        (tmp_path / "mine" / group).mkdir()
        (tmp_path / "mine" / group / "own.yaml").write_text(text)
    own = {"_target_": "optuna.samplers.BruteForceSampler", "seed": 0}
    leave(tmp_path, sampler=own, fixed=[*QUICK, "aug=own"], config_dirs=["--config-dir", "mine"])
    with pytest.raises(UserError, match=r"sampler\._target_=optuna\.samplers\.BruteForceSampler .* sampler=NAME"):
        define(typed())
    with pytest.raises(UserError, match=r"\.mine\._target_=torchvision\.\S+RandomSolarize"):
        define(typed("sampler=own"))
    overrides = ",".join(f"'{one}'" for one in (*QUICK, "aug=own", "optimizer.lr=0.1,0.2"))
    definition, _ = define(typed("sampler=own", f"overrides=[{overrides}]"))
    assert definition.sampler == own
    assert "aug=own" in definition.fixed


@pytest.mark.parametrize(
    "folders",
    [
        ["hydra.searchpath=[pkg://a_strangers_package]"],
        ["hydra.searchpath=[file://mine,pkg\\://a_strangers_package]"],
        ["hydra.searchpath=${oc.decode:'[pkg://a]'}"],
        ["--config-dir", "mine", "sampler._target_=torch.save"],
        ["--multirun"],
    ],
    ids=" ".join,
)
def test_it_names_folders_of_yaml_files_and_nothing_else(tmp_path, monkeypatch, folders):
    monkeypatch.chdir(tmp_path)
    leave(tmp_path, config_dirs=folders)
    with pytest.raises(UserError, match=r"study\.json of study=s .* --config-dir"):
        with_config_dirs(["study=s"])


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        *(("fixed", 5), ("fixed", {"a": 1}), ("searched", ["a=1,2"]), ("seeds", None), ("trials", "many")),
        *(("sampler", "tpe"), ("pruner", [1]), ("config_dirs", "mine"), ("unknown", 1)),
    ],
)
def test_values_of_a_wrong_kind(tmp_path, key, wrong):
    leave(tmp_path)
    file = tmp_path / "outputs/tune/s/study.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: wrong}))
    with pytest.raises(UserError, match=r"study\.json is damaged"):
        read_definition(file.parent)


@pytest.mark.parametrize(
    "other",
    [
        {"fixed": [*QUICK, "logger=mlflow", "logger.mlflow.tracking_uri=http://evil/${oc.env:HOME}"]},
        {"searched": {"optimizer.lr": "0.1,${oc.env:HOME}"}},
    ],
)
def test_it_asks_no_resolver(typed, tmp_path, other):
    leave(tmp_path, **other)
    with pytest.raises(UserError, match=r"oc\.env:HOME.* give the overrides of the search again"):
        define(typed())


def test_keys_of_an_earlier_version_are_left_out(tmp_path):
    leave(tmp_path, fixed=[*QUICK, "data.augment_on=cpu"])
    definition = read_definition(tmp_path / "outputs/tune/s")
    assert definition is not None
    assert definition.fixed == QUICK
