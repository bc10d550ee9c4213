"""Which runs belong together, and what tells the others apart."""

import json

import pytest

from tlab.comparison.factors import group
from tlab.comparison.load import read_runs
from tlab.runs.directory import RunDirectory


def grouped(sweep):
    factors, settings = group(read_runs(sweep)[0])
    return {factor.name: factor.levels for factor in factors}, settings


def test_everything_but_the_seed(make_run, sweep):
    for lr in ("0.1", "1e-2"):
        for seed in (0, 1):
            overrides = ["backbone=vgg16", f"optimizer.lr={lr}", "sweep=x", f"data.num_workers={seed}"]
            make_run(f"lr={lr}", seed=seed, overrides=overrides, config={"optimizer.lr": float(lr)})
    factors, settings = grouped(sweep)
    assert factors == {"optimizer.lr": ("0.01", "0.1")}
    assert {levels: [run.seed for run in runs] for levels, runs in settings.items()} == {
        ("0.01",): [0, 1],
        ("0.1",): [0, 1],
    }


def test_a_value_left_at_its_default_is_read_from_the_configuration(make_run, sweep):
    make_run("a", config={"loss.label_smoothing": 0.0})
    make_run("b", overrides=["loss.label_smoothing=0.1"], config={"loss.label_smoothing": 0.1})
    assert grouped(sweep)[0] == {"loss.label_smoothing": ("0", "0.1")}


def test_what_refers_to_the_seed_is_one_setting_of_all_seeds(make_run, sweep):
    for seed in (0, 1):
        own = {"backbone.weights": "runs/first/seed=${seed}"}
        make_run("first", seed=seed, overrides=[f"backbone.weights=runs/first/seed={seed}"], config=own)
        make_run("other", seed=seed, overrides=["backbone.weights=null"], config={"backbone.weights": None})
    assert [len(runs) for runs in grouped(sweep)[1].values()] == [2, 2]


def test_what_refers_to_another_key_is_shown_with_its_value(make_run, sweep):
    own = {"backbone.input_size": 224, "data.image_size": "${backbone.input_size}"}
    make_run("default", config=own)
    make_run("small", overrides=["data.image_size=64"], config={**own, "data.image_size": 64})
    make_run("same", overrides=["data.image_size=224"], config={**own, "data.image_size": 224})
    make_run("gone", config={"data.image_size": "${backbone.gone}"})
    factors, settings = grouped(sweep)
    assert factors == {"data.image_size": ("224", "${backbone.gone}", "64")}
    assert len(settings[("224",)]) == 2


def test_keys_given_in_a_mapping_are_keys(make_run, sweep):
    make_run("one", overrides=["features={views: 8}"], config={"features.views": 8})
    make_run("two", overrides=["features.views=8"], config={"features.views": 8})
    make_run("none", config={"features.views": None})
    assert grouped(sweep)[0] == {"features.views": ("null", "8")}


def test_a_run_that_recorded_nothing_shows_its_backbone(make_run, sweep):
    make_run("new", overrides=["backbone=vgg16", "aug=strong"], config={"backbone.name": "vgg16"})
    old = make_run("old", config={"backbone.name": "resnet18"})
    (old / ".hydra" / "overrides.yaml").unlink()
    factors = grouped(sweep)[0]
    assert sorted(factors["backbone"]) == ["resnet18", "vgg16"]
    assert sorted(factors["aug"]) == ["not recorded", "strong"]


def test_a_group_left_at_its_default_is_known_from_the_record(make_run, sweep):
    for name, aug in {"a": "light", "b": "strong"}.items():
        run = RunDirectory(make_run(name, overrides=["aug=strong"] if aug == "strong" else []))
        run.update(choices={"aug": aug, "backbone": "vgg16"})
    assert grouped(sweep)[0] == {"aug": ("light", "strong")}


def test_a_choice_that_old_runs_did_not_record_is_no_difference(make_run, sweep):
    for name, seed in {"old": 0, "new": 1}.items():
        run = RunDirectory(make_run(name, seed=seed, overrides=["aug=strong"]))
        if name == "new":
            run.update(choices={"aug": "strong", "optimizer": "sgd"})
    factors, settings = grouped(sweep)
    assert factors == {}
    assert len(settings) == 1


def test_a_key_that_follows_from_its_group_is_no_factor_of_its_own(make_run, sweep):
    for net in ("vgg16", "resnet18"):
        make_run(net, overrides=[f"backbone={net}", f"backbone.weights=/w/{net}.pth"])
    assert list(grouped(sweep)[0]) == ["backbone"]


def test_a_path_is_shown_by_its_last_part(make_run, sweep):
    for name in ("old", "new"):
        make_run(name, overrides=[f"backbone.weights='/w/{name}.pth'"])
    assert grouped(sweep)[0] == {"backbone.weights": ("new.pth", "old.pth")}


def test_a_difference_that_no_override_tells_comes_from_the_configuration(make_run, sweep):
    """As after a change of a YAML file."""
    make_run("a", config={"aug.flip.p": 0.5, "run_dir": "a"})
    make_run("b", config={"aug.flip.p": 0.0, "run_dir": "b"})
    factors, settings = grouped(sweep)
    assert factors == {"aug.flip.p": ("0", "0.5")}
    assert len(settings) == 2


def test_what_runs_have_decided_for_themselves_is_no_difference(make_run, sweep):
    for seed, kind in enumerate(("fixed", "estimated")):
        run = RunDirectory(make_run("auto", seed=seed, config={"finetune.batchnorm": kind}))
        run.update(decided=["finetune.batchnorm"])
    assert len(grouped(sweep)[1]) == 1
    make_run("named", config={"finetune.batchnorm": "fixed"})
    assert grouped(sweep)[0] == {"finetune.batchnorm": ("auto", "fixed")}


def test_a_key_that_is_gone_is_no_difference(make_run, sweep):
    make_run("old", config={"data.augment_on": "auto", "data.module.augment_on": "${data.augment_on}"})
    make_run("new")
    assert grouped(sweep)[0] == {}


def test_a_target_of_an_earlier_version_is_no_difference(make_run, sweep):
    make_run("old", config={"data.source": {"_target_": "tlab.data.index.folder_index"}})
    make_run("new", config={"data.source": {"_target_": "tlab.data.sources.folder.folder_index"}})
    assert grouped(sweep)[0] == {}


def test_a_baseline_is_its_run_with_changes(make_run, sweep):
    path = make_run("a", overrides=["finetune=head", "aug=none"], config={"baseline.scratch": ["finetune=scratch"]})
    make_run("a/seed=0/baselines", config={})
    (path / "baselines/seed=0").rename(path / "baselines/scratch")
    (path / "baselines/scratch/.hydra/overrides.yaml").unlink()
    assert grouped(sweep)[0] == {"finetune": ("head", "scratch")}


def test_statuses(make_run, sweep):
    make_run("a")
    make_run("b", status="failed", error="ValueError: no")
    make_run("c", status="failed", error="interrupted")
    make_run("d", status="running")
    make_run("e", status="pruned")
    (make_run("f") / "run.json").write_text("{")
    runs, damaged = read_runs(sweep)
    assert [run.status for run in runs] == ["finished", "failed", "unfinished", "unfinished", "pruned"]
    assert runs[1].error == "ValueError: no"
    assert len(damaged) == 1
    assert "run.json is damaged" in damaged[0]


def test_what_a_run_says_about_its_cost(make_run, sweep):
    make_run("a", accuracy=[0.2, 0.5, 0.4, 0.8])
    (run,) = read_runs(sweep)[0]
    assert (run.parameters, run.trained_parameters, run.images_per_second, run.seconds) == (6000, 1000, 90, 4.0)
    assert [run.epochs_to("val/acc", target, "max") for target in (0.1, 0.5, 0.6, 0.9)] == [1, 2, 4, None]
    assert run.epochs_to("val/loss", 0.55, "min") == 2


def test_a_record_of_an_old_run_is_read_too(make_run, sweep):
    path = make_run("a")
    record = json.loads((path / "run.json").read_text())
    for key in ("parameters", "class_names", "phases"):
        del record[key]
    (path / "run.json").write_text(json.dumps(record))
    (run,) = read_runs(sweep)[0]
    assert (run.parameters, run.trained_parameters, run.images_per_second) == (None, None, None)


HEAD_FIRST = {
    "finetune.head_epochs": 3,
    "finetune.phases.head.train": "head",
    "finetune.phases.head.epochs": "${finetune.head_epochs}",
    "finetune.phases.all.train": "all",
    "finetune.phases.all.epochs": None,
}
NO_HEAD = {**HEAD_FIRST, "finetune.head_epochs": 0}
LBFGS, SGD, UNDECIDED = ({"head.solver": solver} for solver in ("lbfgs", "sgd", "auto"))


@pytest.mark.parametrize(
    ("configs", "shown"),
    [
        ([HEAD_FIRST | LBFGS, HEAD_FIRST | LBFGS], None),
        ([HEAD_FIRST | LBFGS, NO_HEAD | SGD], None),
        ([HEAD_FIRST | LBFGS, HEAD_FIRST | UNDECIDED], None),
        ([HEAD_FIRST | SGD, HEAD_FIRST], None),
        ([NO_HEAD | LBFGS, NO_HEAD | SGD, NO_HEAD], None),
        ([HEAD_FIRST | LBFGS, HEAD_FIRST], ("lbfgs", "sgd")),
        ([HEAD_FIRST | LBFGS, HEAD_FIRST | SGD, NO_HEAD | SGD], ("lbfgs", "none", "sgd")),
    ],
)
def test_the_solver_is_a_factor_where_heads_differ_in_it(make_run, sweep, configs, shown):
    """Earlier versions had none, and took steps."""
    for number, config in enumerate(configs):
        plan = config["finetune.head_epochs"]
        run = RunDirectory(make_run(f"{number}", overrides=[f"finetune.head_epochs={plan}"], config=config))
        run.update(choices={"aug": "light"})
    levels = grouped(sweep)[0].get("head.solver")
    assert (levels and tuple(sorted(levels))) == shown


def test_a_head_that_decides_the_solver_is_named_alone(make_run, sweep):
    for head, solver in (("linear", LBFGS), ("mlp", SGD)):
        run = RunDirectory(make_run(head, overrides=[f"head={head}"], config=HEAD_FIRST | solver))
        run.update(choices={"head": head})
    assert grouped(sweep)[0] == {"head": ("linear", "mlp")}
