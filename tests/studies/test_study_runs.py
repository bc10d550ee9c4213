"""Which runs a study has, and the mistakes that show before any of them."""

import subprocess
from collections.abc import Callable, Iterator

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig

from tlab.config.hydra import compose, conf_dir
from tlab.config.overrides import key_and_value, tidy
from tlab.core.errors import UserError
from tlab.studies.command_line import gathered
from tlab.studies.study_runs import StudyRun, study_runs

CUT = ("data.root=x", "data.image_size=32", "backbone.upto=layer2", "backbone.weights=w.pth", "seed=7")


@pytest.fixture(scope="module")
def planned() -> Iterator[Callable[..., list[StudyRun]]]:
    """Return a function that gives the runs of a command."""

    def runs(*arguments: str) -> list[StudyRun]:
        cfg = hydra.compose("study", gathered(tidy(arguments, "study", sweep=True)), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        return study_runs(cfg)

    compose([], "study")  # registers the schemas
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield runs
    HydraConfig.instance().cfg = None


def values(run: StudyRun, *keys: str) -> tuple[str, ...]:
    own = dict(map(key_and_value, run.overrides))
    assert len(own) == len(run.overrides)
    return tuple(own.get(key, "-") for key in keys)


def test_transferability_cuts_behind_every_stage(planned):
    runs = planned("name=transferability", *CUT)
    told = [
        (run.line, run.x, *values(run, "backbone.weights", "backbone.random_from", "finetune.phases.all.train"))
        for run in runs
    ]
    stages = ["stem", "layer1", "layer2"]
    expected = {("scratch", None, "w.pth", "-", "-")}
    for number, stage in enumerate(stages, start=1):
        following, after = [*stages, "null"][number], str(len(stages) - number)
        expected |= {("AnB", stage, "w.pth", following, after), ("AnB+", stage, "w.pth", following, "-")}
        expected |= {("BnB", stage, "{scratch}", following, after)}
    assert set(told) == expected
    assert len(told) == len(expected)
    (scratch,) = (run for run in runs if run.line == "scratch")
    assert all(run.origins == ({"scratch": scratch} if run.line == "BnB" else {}) for run in runs)
    assert values(scratch, "finetune") == ("scratch",)


def test_values_of_the_command_line_replace_the_studys_and_another_swept_key_makes_a_line_more(planned):
    runs = planned("name=data_size", "data.root=x", "data.limit=5,null", "aug=none,light", "seed=3,4")
    assert [(run.line, run.x, *values(run, "aug", "data.limit", "seed")) for run in runs] == [
        (f"aug={aug}", limit, aug, limit, seed)
        for limit in ("5", "null")
        for aug in ("none", "light")
        for seed in ("3", "4")
    ]
    assert len(planned("name=scratch", "data.root=x")) == 2 * 4 * 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["data.root=x"], "name is not set; there are .*: give name=data_size"),
        (["name=scrach"], "name=scrach is no study, there are data_size, scratch, .*; give name=scratch"),
        (["name=scratch", "seed=0", "seed=1"], "seed is given twice; give seed=0,1"),
        (["name=scratch", "seed=0,1", "seed=2"], "seed is given twice; give seed=0,1,2"),
        (["name=scratch", "name=data_size"], "name is given twice; give one of them: name=data_size"),
        (["name=scratch", "output=a", "output=b"], "output is given twice; give one of them: output=b"),
        (
            ["name=scratch", "curves.a=[seed=0]", "curves.a=[seed=1]"],
            "curves.a is given twice; give one of them: 'curves.a=",
        ),
        (["name=scratch", "finetune=head"], "finetune is what name=scratch varies itself; leave it out"),
        (["name=transferability", *CUT, "finetune=last"], "finetune is what name=transferability varies itself"),
        (
            ["name=transferability", *CUT, "backbone.random_from=layer1,layer2"],
            "backbone.random_from is what name=",
        ),
        (["name=scratch", "x=data.batch_size"], r"x=data.batch_size has no values; give data.batch_size=A,B,C"),
        (["name=scratch", "fit=power_law"], "fit=power_law is over training images, x=data.limit; give fit=null"),
        (["name=data_size", "y=epochs"], "fit=power_law is of errors and shares, which y=epochs is not"),
        (["name=data_size", "curves={a: ['head.dropout={b}'], b: ['head.dropout={a}']}"], "starts from a run that"),
        (["name=data_size", "-m"], "tlab.study takes several values of a key by itself; leave -m out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_shows_before_anything_runs(arguments, sentence, planned):
    with pytest.raises(UserError, match=sentence):
        planned(*arguments)


@pytest.mark.parametrize(
    ("content", "sentences"),
    [
        (b"x: optimizer.lr\ncurves: {a: [finetune=head]}\n", ["lacks the line '# @package _global_'"]),
        (b"", ["lacks the line '# @package _global_'"]),
        ("title: Größe\n".encode("latin1"), ["is not in UTF-8", "lacks the line"]),
        ("# @package _global_\ntitle: Größe\n".encode("utf-16"), ["is not in UTF-8"]),
    ],
    ids=["no first line", "empty", "latin1", "utf-16"],
)
def test_a_file_that_cannot_be_a_study_is_mended_by_what_is_said(content, sentences, planned, tmp_path):
    file = tmp_path / "my own/studies/mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    command = ("--config-dir", str(tmp_path / "my own"), "name=mine", "data.root=x")
    for sentence in sentences:
        with pytest.raises(UserError, match=sentence) as said:
            gathered(tidy(command, "study", sweep=True))
        subprocess.run(str(said.value).partition("; ")[2], shell=True, check=True)
    gathered(tidy(command, "study", sweep=True))
    assert [each.name for each in file.parent.iterdir()] == ["mine.yaml"]


def test_what_is_no_setting_may_be_given_twice(planned, tmp_path):
    gathered(["--config-dir", str(tmp_path), "--config-dir", str(tmp_path), "name=scratch", "data.root=x"])


def test_title_and_label_need_not_be_given(planned):
    cfg = hydra.compose("study", ["name=mine", "x=data.limit"])
    assert (cfg.title, cfg.x_label) == ("mine", "data.limit")
