"""What a search says at its end, and its commands."""

import shlex

from optuna.distributions import CategoricalDistribution

from tlab.config.hydra import config_dirs
from tlab.search.commands import resume_command
from tlab.search.space import Space
from tlab.search.study import Definition, Study, write_definition
from tlab.search.summary import print_end
from tlab.tune import with_config_dirs

NOTE = "+optimizer.note"
SPACE = Space(
    ("data.root='photos[thumbs]'", "finetune.last_stages=2"),
    {NOTE: "'[/x]',b"},
    {NOTE: CategoricalDistribution(["'[/x]'", "b"])},
)


def study(directory, config_dirs=()) -> Study:
    node = {"_target_": "optuna.samplers.RandomSampler", "seed": 0}
    how = {"trials": 3, "sampler": node, "pruner": {"_target_": "optuna.pruners.NopPruner"}}
    how["config_dirs"] = list(config_dirs)
    fixed, searched = list(SPACE.fixed), dict(SPACE.searched)
    return Study("s", directory, Definition(fixed, searched, [0, 1], "val/acc", "max", None, **how), SPACE)


def test_brackets_are_printed_as_they_are(tmp_path, capsys):
    mine = study(tmp_path / "a[b]", ["--config-dir", "mine"])
    mine.optuna.enqueue_trial({NOTE: "'[/x]'"})
    with mine.lease() as lease:
        mine.optuna.tell(lease.trial, 0.5)
    print_end(mine)
    lines = capsys.readouterr().out.splitlines()
    assert f"  {NOTE}='[/x]'" in lines
    assert lines[-1] == f"search:  {tmp_path}/a[b]/search.html"
    again = shlex.split(lines[-2].removeprefix("again: "))
    assert again[:6] == ["python", "-m", "tlab.train", "-m", "--config-dir", "mine"]
    # without the number of last stages, which the plan of this trial does not use: it would be refused
    assert again[6:] == ["data.root='photos[thumbs]'", f"{NOTE}='[/x]'", "seed=0,1"]


def test_the_command_that_goes_on_names_the_folder_where_it_is_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resume_command(study(tmp_path / "outputs/tune/s")) == "python -m tlab.tune study=s"
    assert resume_command(study(tmp_path / "my runs")) == """python -m tlab.tune study=s 'dir="my runs"'"""


def test_the_command_that_goes_on_repeats_what_asks_for_a_secret(tmp_path, monkeypatch):
    """Such an override is taken from a command line alone, not from `study.json`."""
    monkeypatch.chdir(tmp_path)
    mine = study(tmp_path / "outputs/tune/s")
    mine.definition.fixed.append("logger.mlflow.tracking_uri=http://${oc.env:SECRET}@host")
    words = shlex.split(resume_command(mine))
    assert words[3:] == ["study=s", *mine.definition.fixed, f"{NOTE}='[/x]',b"]


def test_the_arguments_that_name_folders_of_yaml_files():
    given = ["study=a", "hydra.searchpath=[file://x]", "aug=none", "--config-dir", "mine"]
    assert config_dirs(given) == ["--config-dir", "mine", "hydra.searchpath=[file://x]"]
    assert config_dirs(["-cd=mine"]) == ["-cd=mine"]
    assert config_dirs(["aug=none"]) == []


def test_a_study_is_taken_up_with_its_folders_of_yaml_files(tmp_path):
    own = study(tmp_path, ["--config-dir", "mine", "hydra.searchpath=[file://x]"])
    write_definition(tmp_path, own.definition)
    typed = ["--cfg", "job", "study=s", f"dir={tmp_path}"]
    whole = ["--config-dir", "mine", "--cfg", "job", "hydra.searchpath=[file://x]", *typed[2:]]
    assert with_config_dirs(typed) == whole
    assert with_config_dirs(["--config-dir", "other", *typed]) == ["--config-dir", "other", *typed]
    assert with_config_dirs(["study=new"]) == ["study=new"]
