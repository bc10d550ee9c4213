"""The configurations of a sweep's runs."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf, open_dict

from tlab.runs.directory import RunDirectory
from tlab.sweeps.jobs import Job, constants
from tlab.sweeps.sequential import Composer


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


def test_no_runs_share_nothing():
    assert constants([]) == {}
