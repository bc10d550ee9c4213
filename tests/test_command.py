"""The command line: help, composition, and every mistake in one sentence with exit code 2."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import hydra
import pytest
import yaml
from hydra._internal.hydra import Hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from forked_command import run_forked
from tlab import __version__
from tlab.config.hydra import compose, conf_dir, prepare_hydra
from tlab.config.overrides import as_override, key_and_value, named_choices, of_baseline, read_sweep, tidy
from tlab.config.schema import COMMANDS
from tlab.core.errors import UserError
from tlab.core.hardware import SPINS

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


def test_help_lists_no_group_twice(run_entry_point, monkeypatch, capsys):
    """Hydra would list them all for its own template, for longer than all else that the page needs."""
    monkeypatch.setattr(Hydra, "format_config_groups", Hydra.format_config_groups)  # put back afterwards
    monkeypatch.setattr(Hydra, "list_all_config_groups", lambda *_: pytest.fail("Hydra lists the groups"))
    with pytest.raises(SystemExit, match="0"):
        run_entry_point(print, "train", "--help")
    assert "backbone" in capsys.readouterr().out


def test_help_is_for_people_and_imports_no_torch():
    result = tlab("--help")
    assert result.returncode == 0
    for word in ("Examples", "data.root=DIR", "trainer.max_epochs", "vgg16_bn", "lp_ft", "onecycle"):
        assert word in result.stdout
    assert all(len(line) <= 120 for line in result.stdout.splitlines())


def test_the_package_lists_its_commands_and_carries_out_one():
    listed = run_forked("tlab.__main__")
    assert listed.returncode == 0
    for command in COMMANDS:
        page = (conf_dir() / "hydra" / "help" / f"{command}.yaml").read_text()
        (line,) = [line for line in listed.stdout.splitlines() if f"python -m tlab.{command} " in line]
        purpose = line.partition(f"tlab.{command} ")[2].strip()
        assert len(purpose) > 20
        assert f"tlab.{command}: {purpose}" in page
    assert yaml.safe_load(run_forked("tlab.__main__", "audit", "--cfg", "job").stdout)["fix"] is False


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["trian", "data=demo"], "python -m tlab.train data=demo;"),
        (["data=demo", "seed=1"], "python -m tlab.train data=demo seed=1;"),
        (["--cfg", "job"], "python -m tlab.train --cfg job;"),
        (["-m", "data.root=x"], "python -m tlab.train -m data.root=x;"),
        (["tune.py", "study=a"], "python -m tlab.tune study=a;"),
    ],
)
def test_what_is_no_command_is_named_with_the_one_that_is(arguments, meant):
    result = run_forked("tlab.__main__", *arguments)
    assert result.returncode == 2
    assert meant in result.stderr


def test_the_version_is_printed():
    assert run_forked("tlab.__main__", "--version").stdout.strip() == __version__


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
def test_nothing_heavy_is_imported_before_a_run_begins(arguments, tmp_path):
    """And when it is imported, its threads will be those that sleep soon (`limit_spinning`)."""
    code = (
        "import os, sys, runpy; sys.argv[1:] = sys.argv[1:]\n"
        "try: runpy.run_module('tlab.train', run_name='__main__')\n"
        "finally:\n"
        "    kind = 'HEAVY' if {'torch', 'numpy'} & {*sys.modules} else 'LIGHT'\n"
        "    print(kind, os.environ.get('GOMP_SPINCOUNT'))"
    )
    env = {**os.environ, "COMP_LINE": "python -m tlab.train backbone=", "COMP_POINT": "30"}
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):  # of the tests, or of whoever gives them
        env.pop(name, None)
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path, env=env, check=False
    )
    assert f"LIGHT {SPINS}" in result.stdout, result.stderr


def test_the_list_of_commands_imports_nothing_heavy():
    code = "import sys, runpy; runpy.run_module('tlab', run_name='__main__'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_cfg_job_is_yaml_that_names_every_group():
    result = run_forked("tlab.train", "--cfg", "job", "data.root=photos")
    assert result.returncode == 0
    cfg = yaml.safe_load(result.stdout)
    assert cfg["data"]["root"] == "photos"
    assert set(GROUPS) <= set(cfg)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], "data.root is not set; say where the images are with data.root=DIR"),
        (["data.root=/no/such"], "data.root=/no/such does not exist"),
        (["aug=heavy"], "aug=heavy is not a choice of the group aug; there are light"),
        (["root=photos"], "root is not a key of the configuration, did you mean data.root=photos"),
        (
            ["aug=[light,strong]"],
            "aug=[light,strong] names 2 choices of a group that takes one; give aug=light, or -m",
        ),
        (["optimzer=sgd"], "optimzer is not a key of the configuration, did you mean optimizer=sgd"),
        (["data.batch_size=many"], "data.batch_size has the wrong type: value 'many'"),
        (["optimizer.lr=fast", "data=demo"], "optimizer.lr=fast is not a number"),
        (["data.normalize=some", "data=demo"], "data.normalize=some is not one of backbone, dataset, none"),
        (["trainer.precision=8", "data=demo"], "trainer.precision=8 is not one of auto, 32-true"),
        (["trainer.compile=1", "data=demo"], "trainer.compile=1 is not one of auto, true, false"),
        (["finetune.phases.head.epochs=x"], "finetune.phases.head.epochs has the wrong type"),
        (
            ["trainer.limit_val_batches=0", "data=demo"],
            "trainer.limit_val_batches=0 is too small; give more than 0",
        ),
        (["trainer.gradient_clip_val=-1", "data=demo"], "trainer.gradient_clip_val=-1.0 is too small"),
        (["optimizer.lr=null", "data=demo"], "optimizer.lr=null is not a number"),
        (["data"], "data cannot be read; write KEY=VALUE"),
        (["-m", "seed=0,1", "--cfg", "job"], "-m and --cfg cannot be given together; leave out -m"),
        (["experiment=nope"], "experiment=nope is not a choice of the group experiment"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence(overrides, sentence, tmp_path):
    result = run_forked("tlab.train", *overrides, f"hydra.run.dir={tmp_path}/run")
    assert result.returncode == 2
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith(f"tlab: {sentence}")
    assert len(lines) == 1, result.stderr


def test_a_mistake_in_the_plan_shows_before_the_images_are_looked_at_and_leaves_no_directory(tmp_path):
    (tmp_path / "photos").mkdir()  # without any, which is a mistake too
    plan = ("backbone.weights=null", "backbone=mobilenet_v3_small", "finetune.phases.all.train=[layer9]")
    result = run_forked("tlab.train", "data.root=photos", *plan, cwd=tmp_path)
    assert result.returncode == 2
    assert "finetune.phases.all.train names layer9, which the backbone does not have" in result.stderr
    assert list((tmp_path / "outputs/runs").iterdir()) == []


def test_a_mistake_leaves_what_was_in_its_directory(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    place = ("data.root=photos", f"hydra.run.dir={tmp_path}/run", "backbone.weights=null", "backbone.upto=x")
    (tmp_path / "photos").mkdir()
    assert run_forked("tlab.train", *place, cwd=tmp_path).returncode == 2
    assert (tmp_path / "run/notes.txt").read_text() == "mine"


@pytest.mark.parametrize("debug", ["debug=true", "++debug='yes'"])
def test_debug_shows_the_traceback(debug, tmp_path):
    result = run_forked("tlab.train", "data.root=/no/such", debug, f"hydra.run.dir={tmp_path}/run")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_an_unknown_key_in_an_experiment_names_the_file(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ndata:\n  bach_size: 3\n")
    result = run_forked(
        "tlab.train", "--config-dir", str(tmp_path), "experiment=mine", "data.root=x", "--cfg", "job"
    )
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


@pytest.mark.parametrize("value", ["null", "3", "true", "resnet18,null", "range(1,3)", "interval(0,1)"])
def test_what_is_no_name_is_no_choice(value, loader_for):
    with pytest.raises(UserError, match=r"names no choice of the group; there are .*resnet18"):
        loader_for(f"backbone={value}")
    loader_for("~backbone", "backbone={name:x}", "backbone=[resnet18]")  # which Hydra takes


def test_any_torchvision_name_is_a_backbone(tmp_path):
    cfg = compose(["backbone=regnet_y_400mf", f"data.root={tmp_path}", f"run_dir={tmp_path}"])
    assert (cfg.backbone.name, cfg.backbone.library, cfg.backbone.stages) == ("regnet_y_400mf", "torchvision", None)


def test_a_long_list_of_values_is_no_path():
    values = f"optimizer.lr={','.join(f'0.{i:04}' for i in range(2000))}"
    assert tidy([values, "-m"]) == ["-m", values]


@pytest.fixture
def loader_for(monkeypatch) -> Iterator[Callable[..., ConfigLoader]]:
    """Return a function that begins a command with these arguments, none before it, and returns its loader."""
    monkeypatch.delitem(ConfigStore.instance().repo, "backbone", raising=False)

    def begin(*arguments: str) -> ConfigLoader:
        prepare_hydra(arguments)
        return GlobalHydra.instance().config_loader()

    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield begin


def swept(loader: ConfigLoader, override: str) -> list[str]:
    (one,) = read_sweep([override], loader)
    return list(one.sweep_string_iterator())


@pytest.mark.parametrize("group", ["backbone", "finetune", "data"])
def test_a_glob_finds_the_yaml_files_and_nothing_else(group, loader_for):
    for pattern in ("*", "res*", "vgg*_*", "f*"):
        override = f"{group}=glob({pattern})"
        expected = [name for name in choices(group) if fnmatch(name, pattern)]
        loader = loader_for(override)
        if expected:
            assert swept(loader, override) == expected
        else:
            with pytest.raises(UserError, match=r"finds nothing; there are .*"):
                swept(loader, override)
    assert swept(loader, f"{group}=glob(*, exclude=[r*,vgg*])") == [
        name for name in choices(group) if not name.startswith(("r", "vgg"))
    ]


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("backbone=swin_t", {"swin_t"}),
        ("backbone='swin_t'", {"swin_t"}),
        ("+backbone@teacher=swin_t", {"swin_t"}),
        ("backbone=resnet18.yaml", {"resnet18"}),
        ("backbone=swin_t, resnet18", {"swin_t", "resnet18"}),
        ("backbone='swin_t',\"resnet18\"", {"swin_t", "resnet18"}),
        ("backbone=shuffle(choice(swin_t,resnet18))", {"swin_t", "resnet18"}),
        ("backbone=tag(a, sort(swin_t,resnet18))", {"swin_t", "resnet18"}),
        ("backbone=glob(res*)", set()),
        ("backbone=glob([res*,vgg11],exclude=resnet101)", set()),
        ("backbone=resnet18,glob(vgg*)", {"resnet18"}),
        ("backbone=null", set()),
        ("backbone=[swin_t]", set()),
        ("backbone={name:swin_t}", set()),
        ("~backbone", set()),
        ("backbone", set()),
        ("backbone=(swin_t", set()),
        ("backbone.name=swin_t", set()),
        ("head=swin_t", set()),
    ],
)
def test_choices_are_named_one_by_one(override, names):
    assert {*named_choices("backbone", [override])} == names


@pytest.mark.parametrize(
    ("arguments", "choice", "name"),
    [
        ("backbone=regnet_y_400mf,resnet18", "regnet_y_400mf", "regnet_y_400mf"),
        ("backbone=choice('regnet_y_400mf', resnet18)", "regnet_y_400mf", "regnet_y_400mf"),
        ("backbone=resnet18.yaml", "resnet18.yaml", "resnet18"),
    ],
)
def test_a_choice_in_any_spelling_composes(arguments, choice, name, loader_for):
    overrides = [f"backbone={choice}", "data.root=x"]
    assert loader_for(arguments).load_configuration("train", overrides, RunMode.RUN).backbone.name == name


def test_a_backbone_in_another_spelling_is_told_with_the_others_that_are_typed(tmp_path):
    place = f"hydra.searchpath=['{tmp_path}']"
    (tmp_path / "backbone").mkdir()
    for name in ("my-net", "my_net"):
        (tmp_path / f"backbone/{name}.yaml").write_text(f"defaults: [resnet18]\nname: {name}\n")
    for name in ("my-net", "my_net"):
        assert compose([place, f"backbone={name}", "data.root=x", f"run_dir={tmp_path}"]).backbone.name == name
    with pytest.raises(UserError, match="did you mean backbone=vgg16,resnet18,resnet34"):
        prepare_hydra(["backbone=vgg16,ResNet18,resnet34"])


@pytest.mark.parametrize("override", ["backbone=resnet18,glob(vgg*)", "backbone=resnet18,choice(vgg11,vgg16)"])
def test_a_sweep_among_values_is_refused(override, loader_for):
    with pytest.raises(UserError, match="among its values"):
        swept(loader_for(override), override)


@pytest.mark.parametrize("path", ["{}", "file://{}", "'{}'", '"file://{}"'])
def test_a_searchpath_in_every_spelling_brings_its_own_backbone(path, tmp_path):
    folder = tmp_path / "my [conf], new"
    (folder / "backbone").mkdir(parents=True)
    (folder / "backbone" / "ours.yaml").write_text("defaults: [resnet18]\nname: ours\n")
    quotes = path[0] in "'\""
    place = path.format(
        folder
        if quotes
        else str(folder).replace(" ", "\\ ").replace("[", "\\[").replace("]", "\\]").replace(",", "\\,")
    )
    cfg = compose(["backbone=ours", f"hydra.searchpath=[{place}]", "data.root=x", f"run_dir={tmp_path}"])
    assert (cfg.backbone.name, next(iter(cfg.backbone.stages))) == ("ours", "stem")


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("a.b=1e-3", "a.b", "1e-3"),
        ("++a=[x,'y']", "a", "[x,'y']"),
        ("~a", "a", ""),
        ("a='x=y'", "a", "x=y"),
        ("a='x','y'", "a", "'x','y'"),
        (r"a='it\'s'", "a", "it's"),
        ("a=\"'x'\"", "a", "'x'"),
        ("a= 'x'", "a", "x"),
        ("a='x", "a", "'x"),
        ("backbone@x=y", "backbone@x", "y"),
    ],
)
def test_key_and_value_of_an_override(override, key, value):
    assert key_and_value(override) == (key, value)


@pytest.mark.parametrize("text", ["a b", "it's", "a\\b", "a\\", "\\'", "a,b=[c]", "'"])
def test_any_text_is_quoted_as_hydra_reads_it(text, tmp_path):
    assert compose(["data.root=x", as_override("run_dir", text)]).run_dir == text
    assert key_and_value(as_override("run_dir", text)) == ("run_dir", text)


def test_a_baseline_with_another_plan_leaves_out_all_that_is_said_of_the_first():
    given = ["data.root=x", "++run_dir=x", "~finetune.phases.head", "++finetune.head_epochs=1"]
    assert of_baseline(given, ["finetune=scratch"]) == ["data.root=x", "finetune=scratch"]
