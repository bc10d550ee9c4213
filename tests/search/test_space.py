import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tlab.config.hydra import conf_dir, prepare_hydra
from tlab.core.errors import UserError
from tlab.search.command_line import gather
from tlab.search.space import override, read_space


@pytest.fixture
def loader():
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    prepare_hydra([])
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.mark.parametrize(
    ("text", "distribution"),
    [
        ("optimizer.lr=interval(0, 1)", FloatDistribution(0.0, 1.0)),
        ("optimizer.lr=tag(log, interval(1e-4, 1))", FloatDistribution(1e-4, 1.0, log=True)),
        ("finetune.head_epochs=int(interval(1, 8))", IntDistribution(1, 8)),
        ("data.batch_size=tag(log, int(interval(8, 64)))", IntDistribution(8, 64, log=True)),
        ("finetune.head_epochs=range(1, 9, step=2)", IntDistribution(1, 7, step=2)),
        ("finetune.head_epochs=range(3)", IntDistribution(0, 2)),
        ("head.dropout=range(0.0, 0.5, step=0.25)", FloatDistribution(0.0, 0.25, step=0.25)),
        ("aug=none,light", CategoricalDistribution(["none", "light"])),
        ("aug=shuffle(none,light)", CategoricalDistribution(["none", "light"])),
        ("optimizer.weight_decay=choice(0, 1e-4)", CategoricalDistribution(["0", "0.0001"])),
        ("finetune.last_stages=1,null", CategoricalDistribution(["1", "null"])),
        ("+optimizer.name='a b',c", CategoricalDistribution(["'a b'", "c"])),
        ("+optimizer.name=_a,b", CategoricalDistribution(["_a", "b"])),
    ],
)
def test_hydras_sweep_syntax_as_distributions(loader, text, distribution):
    space = read_space([text], {}, loader)
    assert list(space.distributions.values()) == [distribution]
    assert list(space.distributions) == [text.partition("=")[0]]


def test_a_glob_takes_the_choices_of_a_group_and_leaves_out_what_is_none(loader):
    assert read_space(["optimizer=glob(*)"], {}, loader).distributions["optimizer"].choices == ("adamw", "sgd")
    finetune = read_space(["finetune=glob(*, exclude=scratch)"], {}, loader).distributions["finetune"].choices
    assert finetune == ("full", "gradual", "head", "last", "lp_ft")


def test_a_glob_is_kept_as_the_choices_that_it_found(loader):
    for glob, kept in (("glob(*)", "choice(adamw,sgd)"), ("glob(s*)", "choice(sgd)")):
        space = read_space([f"optimizer={glob}"], {}, loader)
        assert space.searched == {"optimizer": kept}
        again = read_space([f"optimizer={kept}"], {}, loader)
        assert again.distributions == space.distributions
        assert again.searched == space.searched


def test_overrides_with_one_value_are_shared_and_the_command_line_wins(loader):
    file = {"optimizer.lr": "interval(0.1, 0.2)", "aug": "none, light", "seed": 3}
    space = read_space(["data.root='my photos'", "aug=strong"], file, loader)
    assert space.fixed == ("aug=strong", "seed=3", "data.root='my photos'")
    assert space.overrides({"optimizer.lr": 0.123456789}) == [*space.fixed, "optimizer.lr=0.1235"]


def test_the_corners_try_every_choice_and_both_ends(loader):
    space = read_space(["aug=none,light,strong", "optimizer.lr=interval(0.1, 0.2)"], {}, loader)
    assert [tuple(corner.values()) for corner in space.corners()] == [
        ("none", 0.1),
        ("light", 0.1),
        ("strong", 0.1),
        ("none", 0.2),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optimizer.lr=interval(1, 0)", r"optimizer\.lr=interval\(1, 0\) has no values to choose from"),
        ("optimizer.lr=tag(log, interval(0, 1))", "has no values to choose from"),
        ("optimizer.lr=range(5, 5)", "has no values to choose from"),
        ("optimizer.lr=interval(1", r"cannot be read; write KEY=VALUE, KEY=choice"),
        ("optimizer.lr=0.1", r"there is nothing to search; give keys several values"),
        ("aug=glob(nothing)", "finds nothing; there are light, none"),
    ],
)
def test_mistakes_in_a_space(loader, text, words):
    with pytest.raises(UserError, match=words):
        read_space([text], {}, loader)


@pytest.mark.parametrize(("value", "text"), [(0.012345678, "k=0.01235"), (1.0, "k=1.0"), (3, "k=3"), ("x", "k=x")])
def test_real_numbers_can_be_read_and_typed(value, text):
    assert override("k", value) == text


def test_tunes_own_arguments_stay_and_the_rest_goes_to_the_trials():
    given = ["study=a", "data.root=b c", "aug=none,light", "budget.trials=3", "--config-dir", "mine", "~aug.mix"]
    assert gather([*given, "hydra.verbose=true", "sampler.seed=1", "seed=0,1"]) == [
        *("study=a", "budget.trials=3", "--config-dir", "mine", "hydra.verbose=true", "sampler.seed=1"),
        "seeds=[0,1]",
        "overrides=['data.root=b c','aug=none,light','~aug.mix']",
    ]
    flag = ["--config-dir", "mine"]
    assert gather(["study=a", "aug=none,light", *flag]) == ["study=a", "overrides=['aug=none,light']", *flag]
    assert gather(["study=a", "workers=2"])[-1] == "hydra/launcher=joblib"
    assert gather(["study=a", "workers=2", "hydra/launcher=ray"])[-1] == "hydra/launcher=ray"
    assert gather(["++study=a", "workers=2", "+hydra/launcher=ray"])[-1] == "+hydra/launcher=ray"
    assert gather(["--shell-completion", "query=bash"]) == ["--shell-completion", "query=bash"]


def test_a_trials_reference_to_another_key_is_the_trials(monkeypatch):
    monkeypatch.setenv("RATE", "0.5")
    given = ["data.limit=${data.batch_size}", "optimizer.lr=${oc.env:RATE}", r"data.group=\${d}"]
    (argument,) = gather(["study=a", *given])[1:]
    (one,) = OverridesParser.create().parse_overrides([argument])
    read = list(OmegaConf.create({"overrides": one.value()}).overrides)
    assert read == ["data.limit=${data.batch_size}", "optimizer.lr=0.5", "data.group=${d}"]


@pytest.mark.parametrize("key", ["logger.mlflow.tracking_uri", "+callbacks.mine.token"])
def test_what_may_be_a_secret_is_asked_in_the_trial_alone(monkeypatch, key):
    monkeypatch.setenv("SECRET", "hunter2")
    asked = f"{key}=http://${{oc.env:SECRET,${{seed}}}}@host"
    (argument,) = gather(gather(["study=a", asked]))[1:]
    (one,) = OverridesParser.create().parse_overrides([argument])
    assert list(OmegaConf.create({"overrides": one.value()}).overrides) == [asked]


@pytest.mark.parametrize("seeds", ["0,1,2", "[0,1,2]", "range(0,3)", "range(3)"])
def test_the_seeds_of_each_trial(seeds):
    assert gather(["study=a", f"seed={seeds}"]) == ["study=a", "seeds=[0,1,2]"]


def test_a_search_needs_a_name():
    for flag in (["--config-dir", "mine"], ["--config-dir=mine"]):
        with pytest.raises(UserError, match="study is not set"):
            gather([*flag, "data.root=photos"])


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("-m", "leave -m out"),
        ("run_dir=x", "run_dir is set by"),
        ("seed=interval(0, 1)", r"seed=interval\(0, 1\) cannot be read; write seed=0,1,2"),
    ],
)
def test_what_a_search_sets_itself(argument, words):
    with pytest.raises(UserError, match=words):
        gather(["study=a", argument])
