"""A key that a command line gives and no run of it uses is refused, never ignored."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tlab.assembly.baselines import compose_baselines
from tlab.config.hydra import compose
from tlab.config.overrides import given_keys
from tlab.config.unused_keys import Run, without_unused
from tlab.runs.directory import RunDirectory
from tlab.search.command_line import gather
from tlab.search.study import Definition, write_definition
from tlab.tune import define

RATES = {"finetune.backbone_lr_scale", "finetune.stage_lr_decay", "finetune.stage_lr_scales"}
SPLIT = {"data.val_fraction", "data.test_fraction", "data.split_seed", "data.exclude", "data.group"}
STORED = {"features.views", "features.max_gb"}
WEIGHTS = {"backbone.weights_classes", "head.reuse"}
HEAD = "finetune.phases.head.lr_scale"
UNFROZEN = "backbone.unfrozen_lr_scale"
UNMIXED = {"finetune.last_stages", "aug.mix.p"}  # of the default plan and augmentation
KEYS = {
    *(*RATES, *SPLIT, *STORED, *UNMIXED, *WEIGHTS, HEAD, "finetune.head_epochs", "finetune.l2_sp", "finetune.ema"),
    *("backbone.weights", "backbone.random_from", "backbone.input_size", "features.cache", "aug", UNFROZEN),
    *("data.crop_fraction", "data.image_size", "optimizer.weight_decay", "scheduler.warmup"),
    *("optimizer.lr", "head.dropout", "trainer.gradient_clip_val", "trainer.accumulate_grad_batches", "scheduler"),
    *("trainer.strategy", "trainer.early_stopping", "dashboards.top_losses", "checkpoint.mode", "seed"),
}
STEPS = {"optimizer.lr", "optimizer.weight_decay", "scheduler", "scheduler.warmup", "head.dropout"}
GIVEN = ("backbone.weights_classes=names.json",)


@pytest.mark.parametrize(
    ("overrides", "unused"),
    [
        ([], UNMIXED),
        (["aug.mix._target_=mine.Mix", "aug.mix.p=0.5"], {"finetune.last_stages"}),
        (
            ["finetune=head", "data=demo", "logger=none", "aug.mix.mixup_alpha=0.2"],
            {*RATES, *SPLIT, UNFROZEN, "finetune.l2_sp", "finetune.last_stages", "dashboards.top_losses"},
        ),
        (
            ["finetune=full", "data.resize=pad", "data.image_size=64", "trainer.strategy=ddp"],
            {
                *UNMIXED,
                *STORED,
                UNFROZEN,
                "finetune.head_epochs",
                "data.crop_fraction",
                "backbone.input_size",
                "trainer.strategy",
            },
        ),
        (
            ["finetune=scratch", "logger=none", "dashboards.top_losses=0"],
            {*UNMIXED, *STORED, UNFROZEN, "finetune.head_epochs", "finetune.l2_sp", *WEIGHTS, "backbone.weights"},
        ),
        (
            ["finetune=last", "head=probe"],
            {"aug.mix.p", UNFROZEN, "finetune.stage_lr_decay", HEAD, "backbone.weights_classes"},
        ),
        (
            [
                "finetune=last",
                "finetune.last_stages=2",
                "finetune.head_epochs=1",
                "features.cache=off",
                "trainer=ddp",
            ],
            {"aug.mix.p", UNFROZEN, *STORED},
        ),
        (["backbone.random_from=layer3"], {*UNMIXED, *WEIGHTS}),
        (["backbone.random_from=layer3", "backbone.weights=null"], {*UNMIXED, *WEIGHTS, "backbone.random_from"}),
        (["finetune=gradual", "aug=none", "backbone.weights=null"], {*UNMIXED, *WEIGHTS, "features.views"}),
        (
            ["finetune.phases.head.epochs=2", "finetune.stage_lr_scales={stem: 0.1}"],
            {*UNMIXED, "finetune.head_epochs", "finetune.stage_lr_decay"},
        ),
        (["aug=none", "+aug@finetune.phases.head.aug=light"], UNMIXED),
        (
            ["finetune=head", "head.solver=lbfgs", "trainer.gradient_clip_val=1"],
            {*UNMIXED, *RATES, UNFROZEN, "finetune.l2_sp", *STEPS, "trainer.gradient_clip_val"},
        ),
        (["head.solver=lbfgs", "head.dropout=0.1", f"{HEAD}=0.5", "trainer.gradient_clip_val=1"], {*UNMIXED, HEAD}),
        (
            [
                f"finetune.phases.{name}={{weight_decay: 0.1, scheduler: {{warmup: 0.2}}}}"
                for name in ("head", "all")
            ]
            + [f"+aug@finetune.phases.{name}.aug=light" for name in ("head", "all")],
            {*UNMIXED, "aug", "optimizer.weight_decay", "scheduler.warmup"},
        ),
        *(
            (
                ["finetune=full", f"finetune.phases.all.epochs={reference}", "finetune.head_epochs=2"],
                {*UNMIXED, UNFROZEN, *STORED},
            )
            for reference in ("${finetune.head_epochs}", "${...head_epochs}", "${oc.select:finetune.head_epochs}")
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_which_keys_do_nothing(overrides, unused, tmp_path):
    run = Run(compose([*GIVEN, *overrides, f"run_dir={tmp_path}"], with_hydra=True))
    assert {key for key in KEYS if run.reasons(key)} == unused
    for key in unused:
        assert f"{key}=1" not in without_unused([f"{key}=1"], run)


def test_the_keys_that_overrides_give():
    typed = [
        "+a.b=1",
        "~c",
        "aug@finetune.phases.head.aug=none",
        "features={views: 8, x: {y: 1}}",
        "d={e: 1},{f: 2}",
    ]
    assert list(given_keys([*typed, "a.b=2"])) == [
        *("a.b", "finetune.phases.head.aug", "features", "features.views", "features.x", "features.x.y"),
        *("d", "d.e", "d.f"),
    ]


@pytest.fixture
def command(run_entry_point, photos, tmp_path, monkeypatch) -> Callable[..., None]:
    """Carry out a command up to where it would train."""

    def give(*arguments: str) -> None:
        if arguments[0].startswith(("overrides=", "seeds=")):
            run_entry_point(define, "tune", *arguments, "study=s", f"dir={tmp_path / 's'}")
        else:
            places = (f"hydra.sweep.dir={tmp_path / 'runs'}", f"hydra.run.dir={tmp_path / 'run'}")
            run_entry_point(compose_baselines, "train", *arguments, f"data.root={photos}", *places)

    monkeypatch.setattr("tlab.sweeps.sweep.fetch_weights", lambda *_: None)
    monkeypatch.setattr("tlab.sweeps.sweep.run_in_this_process", lambda *_: None)
    return give


def trials(*overrides: str) -> str:
    """What `tlab.tune` makes of the overrides of its trials."""
    return gather(["study=s", "data=demo", *overrides])[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["finetune=full", "finetune.head_epochs=0"], ["finetune.head_epochs", "finetune=full", "finetune=lp_ft"]),
        (["features={views: 8, cache: off}"], ["features.views", "features.cache=off", "features.cache=auto"]),
        (["sweep=mine"], ["sweep", "-m"]),
        (["finetune=head", "head.solver=lbfgs", "optimizer=sgd"], ["optimizer", "head.solver=sgd"]),
        (
            ["finetune=full", "finetune.last_stages=2", "+baseline.last=['finetune=last']"],
            ["finetune.last_stages", "finetune=full"],
        ),
        (
            ["-m", "finetune=full,scratch", "finetune.head_epochs=1,2"],
            ["finetune.head_epochs", "finetune=full", "finetune=scratch"],
        ),
        (
            [trials("finetune=full,head", "finetune.last_stages=1,2")],
            ["finetune.last_stages", "finetune=full", "finetune=head"],
        ),
    ],
    ids=" ".join,
)
def test_a_key_that_no_run_uses_is_refused(command, capsys, tmp_path, arguments, words):
    with pytest.raises(SystemExit) as exit_:
        command(*arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert exit_.value.code == 2
    assert all(word in line for word in words)
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["finetune=lp_ft", "finetune.head_epochs=3"],
        ["head.solver=lbfgs", "optimizer.lr=0.1"],
        ["finetune=head", "optimizer.lr=0.1"],
        ["-m", "finetune=head", "head.solver=lbfgs,sgd", "optimizer.lr=0.1"],
        ["finetune=scratch", "backbone.weights=null"],
        ["experiment=demo"],
        ["experiment=demo", "finetune.head_epochs=1", "features.views=2"],
        ["finetune=full", "features.views=2", "+baseline.frozen=['finetune=head']"],
        ["-m", "finetune=full", "features.views=2", "+baseline.frozen=['finetune=head']"],
        ["-m", "features.cache=off,auto", "finetune=full,head", "features.views=2", "sweep=mine"],
        [trials("features.cache=off,auto", "finetune=full,head", "features.views=2")],
    ],
    ids=" ".join,
)
def test_a_key_that_some_run_uses_is_none_of_these(command, arguments):
    command(*arguments)


@pytest.mark.parametrize("tuned", [False, True], ids=["sweep", "search"])
def test_it_is_said_once_which_plans_do_not_use_a_key(command, capsys, caplog, tuned):
    caplog.set_level("INFO", "tlab")
    plans = ("finetune=head,lp_ft,full,scratch", "finetune.head_epochs=1,2")
    command(trials(*plans)) if tuned else command("-m", *plans, "seed=0,1")
    (line,) = [one for one in (capsys.readouterr().out + caplog.text).splitlines() if "finetune.head_epochs" in one]
    assert "finetune=full" in line
    assert "finetune=scratch" in line
    assert "finetune=head" not in line
    assert "finetune=lp_ft" not in line


def test_a_study_that_goes_on_does_not_ignore_other_seeds(command, capsys, tmp_path):
    how = {"trials": 3, "sampler": {}, "pruner": {}}
    write_definition(
        tmp_path / "s", Definition(["data=demo"], {"aug": "none,light"}, [0], "val/acc", "max", None, **how)
    )
    command("seeds=[0]")
    with pytest.raises(SystemExit):
        command("seeds=[1]")
    assert "seeds=[1]" in capsys.readouterr().err


def test_a_run_that_has_begun_with_such_a_key_goes_on(command, tmp_path):
    """An earlier version took it."""
    for place in (tmp_path / "run", tmp_path / "runs/default/seed=0"):
        RunDirectory(Path(place)).write_config("", ["finetune.head_epochs=2"])
    command("finetune=full", "finetune.head_epochs=2")
    command("-m", "finetune=full", "finetune.head_epochs=2")
