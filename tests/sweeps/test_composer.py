"""The configurations of a sweep's runs."""

from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import initialize_config_dir as hydra_initialized
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from tlab.config.hydra import conf_dir, prepare_hydra
from tlab.runs.directory import RunDirectory
from tlab.sweeps.composer import Composer
from tlab.sweeps.jobs import Job, constants


@pytest.fixture
def job(tmp_path) -> Job:
    return Job(("seed=0",), "a", "0", RunDirectory(tmp_path / "a" / "seed=0"))


def test_a_run_that_is_tried_again_is_composed_again(job):
    """Hydra makes the configuration of a run read-only; another process may have held it."""
    loader = SimpleNamespace(load_sweep_config=lambda *_: OmegaConf.create({"hydra": {"job": {}}}))
    composer = Composer(
        OmegaConf.create(), SimpleNamespace(config_loader=loader), {job: loader.load_sweep_config()}
    )
    for _ in range(3):
        config = composer.compose(job)
        with open_dict(config):
            config.hydra.job.id = 0
        OmegaConf.set_readonly(config.hydra, True)


@pytest.fixture(scope="module")
def loader(tmp_path_factory) -> Iterator[tuple[Any, DictConfig]]:
    """Hydra's loader, and a sweep's configuration."""
    with hydra_initialized(config_dir=str(conf_dir()), version_base="1.3"):
        prepare_hydra([])
        loader = GlobalHydra.instance().config_loader()
        overrides = [f"hydra.sweep.dir={tmp_path_factory.mktemp('sweep')}"]
        yield loader, loader.load_configuration("train", overrides, RunMode.MULTIRUN)


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param([("optimizer.lr=0.1", "seed=0"), ("optimizer.lr=1e-3", "seed=3")], id="numbers"),
        pytest.param(
            [("backbone.weights=null",), ("backbone.weights='a, b'",), ("backbone.weights=x",)], id="null"
        ),
        pytest.param([("aug=light", "optimizer=sgd"), ("aug=none", "optimizer=adamw")], id="groups"),
        pytest.param([("head.hidden=[8]",), ("head.hidden=[4,2]",)], id="lists"),
        pytest.param([("+loss.a=1",), ("+loss.a=2",)], id="added"),
        pytest.param([("optimizer.lr=1", "optimizer.lr=2"), ("optimizer.lr=3", "optimizer.lr=2")], id="twice"),
        pytest.param([("optimizer.lr=${optimizer.momentum}",), ("optimizer.lr=0.2",)], id="interpolation"),
        pytest.param([("trainer.max_epochs=2", "run_dir=a b"), ("trainer.max_epochs=3", "run_dir=b")], id="texts"),
    ],
)
def test_what_is_composed_from_another_run_is_what_hydra_composes(loader, tmp_path, runs):
    loads, config = loader
    composer = Composer(config, SimpleNamespace(config_loader=loads))
    jobs = [
        Job(each, str(number), "0", RunDirectory(tmp_path / str(number) / "seed=0"))
        for number, each in enumerate(runs)
    ]
    for job in [*jobs, jobs[0]]:
        whole = loads.load_sweep_config(config, [*job.overrides, *job.place])
        composed = composer.compose(job)
        assert OmegaConf.to_container(composed) == OmegaConf.to_container(whole)
        assert composed == whole
        OmegaConf.set_readonly(composed, True)  # as a run does


def test_a_value_that_a_key_cannot_have_is_refused_as_ever(loader, tmp_path):
    loads, config = loader
    composer = Composer(config, SimpleNamespace(config_loader=loads))
    messages = []
    for number, value in enumerate(("2", "many")):
        job = Job(
            (f"trainer.max_epochs={value}",), "a", str(number), RunDirectory(tmp_path / "a" / f"seed={number}")
        )
        with suppress(HydraException):
            composer.compose(job)
            continue
        with pytest.raises(HydraException):
            loads.load_sweep_config(config, [*job.overrides, *job.place])
        messages.append(number)
    assert messages == [1]


def test_no_runs_share_nothing():
    assert constants([]) == {}
