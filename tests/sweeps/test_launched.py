"""How many runs there are at once on this machine."""

import pytest
from omegaconf import OmegaConf

from tlab.core.errors import UserError
from tlab.runs.manifest import SweepManifest
from tlab.sweeps.jobs import make_jobs
from tlab.sweeps.launched import LOCAL, choose_workers, most_devices


def launcher(n_jobs):
    return OmegaConf.create({"hydra": {"launcher": {"_target_": f"{LOCAL}Launcher", "n_jobs": n_jobs}}})


def test_no_run_at_once_is_a_mistake():
    with pytest.raises(UserError, match=r"hydra\.launcher\.n_jobs=0 runs nothing"):
        choose_workers(launcher(0), 1)


def test_each_worker_has_the_gpus_of_the_largest_run(monkeypatch, tmp_path):
    runs = [[f"trainer.devices={devices}"] for devices in (1, 2)]
    jobs = make_jobs(runs, "0", tmp_path, SweepManifest())
    config = OmegaConf.create({"trainer": {"devices": 4}})
    assert most_devices(jobs, config) == 2
    assert most_devices([], config) == 4
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    assert choose_workers(launcher(-1), most_devices(jobs, config)) == 2
