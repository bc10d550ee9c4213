"""The command line: help, composition, and every mistake in one sentence with exit code 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tlab.command import compose, conf_dir
from tlab.overrides import tidy

GROUPS = {
    "backbone": "vgg11 vgg16 vgg16_bn vgg19 resnet18 resnet34 resnet50 resnet101 mobilenet_v3_small",
    "aug": "none light strong randaugment trivialaugment pad_crop",
    "data": "folder csv torchvision demo",
    "finetune": "head lp_ft gradual last full scratch",
    "optimizer": "sgd adamw",
    "scheduler": "none cosine onecycle step plateau",
    "trainer": "auto cpu gpu ddp",
    "experiment": "demo",
}


def tlab(*arguments: str, module: str = "train", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"tlab.{module}", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COLUMNS": "100"},
    )


def choices(group: str) -> list[str]:
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml") if not file.name.startswith("_"))


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_of_the_contract_is_there_and_composes(group, tmp_path):
    assert set(GROUPS[group].split()) <= set(choices(group))
    for choice in choices(group):
        cfg = compose([f"{group}={choice}", f"data.root={tmp_path}", f"run_dir={tmp_path}"])
        assert cfg.data.root == str(tmp_path)


@pytest.mark.parametrize("file", sorted(conf_dir().glob("[!h]*/*.yaml")), ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_choice_opens_with_when_to_choose_it(file):
    lines = [line for line in file.read_text().splitlines() if line != "# @package _global_"]
    expected = "# Not a choice" if file.name.startswith("_") else f"# Choose {file.stem}"
    assert lines[0].startswith(expected)


def test_help_is_for_people_and_imports_no_torch():
    result = tlab("--help")
    assert result.returncode == 0
    for word in ("Examples", "data.root=DIR", "trainer.max_epochs", "vgg16_bn", "lp_ft", "onecycle"):
        assert word in result.stdout
    assert all(len(line) <= 120 for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--cfg", "job"],
        ["--shell-completion", "query=bash"],
        ["data.root=/no/such/folder"],
        ["data.bach_size=3"],
    ],
    ids=" ".join,
)
def test_no_torch_before_a_run_begins(arguments, tmp_path):
    code = (
        "import sys, runpy; sys.argv[1:] = sys.argv[1:]\n"
        "try: runpy.run_module('tlab.train', run_name='__main__')\n"
        "finally: print('TORCH' if 'torch' in sys.modules else 'LIGHT')"
    )
    env = {**os.environ, "COMP_LINE": "python -m tlab.train backbone=", "COMP_POINT": "30"}
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path, env=env, check=False
    )
    assert "LIGHT" in result.stdout, result.stderr


def test_cfg_job_is_yaml_that_names_every_group():
    result = tlab("--cfg", "job", "data.root=photos")
    assert result.returncode == 0
    cfg = yaml.safe_load(result.stdout)
    assert cfg["data"]["root"] == "photos"
    assert set(GROUPS) <= set(cfg)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], "data.root is not set; say where the images are with data.root=DIR"),
        (["data.root=/no/such"], "data.root=/no/such does not exist"),
        (["data=foldr"], "data=foldr is not a choice of the group data, did you mean folder; there are csv"),
        (["aug=heavy"], "aug=heavy is not a choice of the group aug; there are light"),
        (["data.bach_size=3"], "data.bach_size is not a key of the configuration, did you mean data.batch_size"),
        (["lr=0.1"], "lr is not a key of the configuration, did you mean optimizer.lr"),
        (["optimzer=sgd"], "optimzer is not a key of the configuration, did you mean optimizer"),
        (["data.batch_size=many"], "data.batch_size has the wrong type: value 'many'"),
        (["data.batch_size=0", "data=demo"], "data.batch_size=0 is too small; give 1 or more"),
        (["optimizer.lr=fast", "data=demo"], "optimizer.lr=fast is not a number"),
        (["data.normalize=some", "data=demo"], "data.normalize=some is not one of backbone, dataset, none"),
        (["trainer.precision=8", "data=demo"], "trainer.precision=8 is not one of auto, 32-true"),
        (["trainer.compile=1", "data=demo"], "trainer.compile=1 is not one of auto, true, false"),
        (["data.val_fraction=1.5", "data=demo"], "data.val_fraction=1.5 is too large; give 0.99 or less"),
        (["finetune.phases.head.epochs=x"], "finetune.phases.head.epochs has the wrong type"),
        (["seed=99999999999", "data=demo"], "seed=99999999999 is too large; give 4294967295 or less"),
        (
            ["trainer.limit_val_batches=0", "data=demo"],
            "trainer.limit_val_batches=0 is too small; give more than 0",
        ),
        (["trainer.gradient_clip_val=-1", "data=demo"], "trainer.gradient_clip_val=-1.0 is too small"),
        (["optimizer.lr=null", "data=demo"], "optimizer.lr=null is not a number"),
        (["data"], "data cannot be read; write KEY=VALUE"),
        (["experiment=nope"], "experiment=nope is not a choice of the group experiment"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence(overrides, sentence, tmp_path):
    result = tlab(*overrides, f"hydra.run.dir={tmp_path}/run")
    assert result.returncode == 2
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith(f"tlab: {sentence}")
    assert len(lines) == 1, result.stderr


def test_a_mistake_in_the_plan_shows_before_the_images_are_looked_at_and_leaves_no_directory(tmp_path):
    (tmp_path / "photos").mkdir()  # without any, which is a mistake too
    plan = ("backbone.weights=null", "backbone=mobilenet_v3_small", "finetune.phases.all.train=[layer9]")
    result = tlab("data.root=photos", *plan, cwd=tmp_path)
    assert result.returncode == 2
    assert "finetune.phases.all.train names layer9, which the backbone does not have" in result.stderr
    assert list((tmp_path / "outputs/runs").iterdir()) == []


def test_a_mistake_leaves_what_was_in_its_directory(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    place = ("data.root=photos", f"hydra.run.dir={tmp_path}/run", "backbone.weights=null", "backbone.upto=x")
    (tmp_path / "photos").mkdir()
    assert tlab(*place, cwd=tmp_path).returncode == 2
    assert (tmp_path / "run/notes.txt").read_text() == "mine"


def test_debug_shows_the_traceback(tmp_path):
    result = tlab("data.root=/no/such", "debug=true", f"hydra.run.dir={tmp_path}/run")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_an_unknown_key_in_an_experiment_names_the_file(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ndata:\n  bach_size: 3\n")
    result = tlab("--config-dir", str(tmp_path), "experiment=mine", "data.root=x", "--cfg", "job")
    assert result.returncode == 2
    assert "data.bach_size is not a key of the configuration (in conf/experiment/mine.yaml)" in result.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python -m tlab.train backbone=resnet1", "backbone=resnet101 backbone=resnet18"),
        ("python -m tlab.train data=demo trainer.max_ep", "trainer.max_epochs="),
        ("tlab-train aug=no", "aug=none"),
        ("python -m tlab.evaluate spl", "split="),
        ("python -m json.tool spl", ""),
        ("python -m tlab.tr", ""),
    ],
)
def test_bash_completes(line, expected):
    script = tlab("--shell-completion", "install=bash").stdout
    result = subprocess.run(
        [
            "bash",
            "-c",
            f'{script}\nCOMP_LINE="{line}"; COMP_POINT={len(line)}; _tlab_completion; echo "${{COMPREPLY[*]}}"',
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert result.stdout.strip() == expected
    assert not result.stderr


def test_any_torchvision_name_is_a_backbone(tmp_path):
    cfg = compose(["backbone=regnet_y_400mf", f"data.root={tmp_path}", f"run_dir={tmp_path}"])
    assert (cfg.backbone.name, cfg.backbone.library, cfg.backbone.stages) == ("regnet_y_400mf", "torchvision", None)


def test_a_long_list_of_values_is_no_path():
    values = f"optimizer.lr={','.join(f'0.{i:04}' for i in range(2000))}"
    assert tidy([values, "-m"]) == ["-m", values]
