"""tlab's launchers, here because Hydra looks for launchers in `hydra_plugins` only; see conf/hydra/launcher."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, ClassVar

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class LocalLauncher(BasicLauncher):
    """Hydra's own launcher, with a key that `tlab.sweeps.forked_workers` reads.

    Args:
        n_jobs: Number of runs at once; None: chosen by `choose_processes` there.
    """

    def __init__(self, n_jobs: int | None = None) -> None:
        super().__init__()
        self.n_jobs = n_jobs


class _RemoteLauncher(Launcher):
    """Runs a sweep's jobs in other processes, by the function `launch` of a module for this kind of cluster.

    Args:
        **options: Keys of the preset in conf/hydra/launcher.
    """

    module: ClassVar[str]

    def __init__(self, **options: Any) -> None:
        self.options: Any = OmegaConf.to_container(OmegaConf.create(options), resolve=True)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what `launch` needs."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run each list of overrides; returns when all runs have ended, failed ones too."""
        # here, since Hydra imports this file for --help too
        from tlab.launchers.remote_jobs import RemoteJob

        jobs = [
            RemoteJob(list(overrides), number, self.config, self.context, self.task)
            for number, overrides in enumerate(job_overrides, initial_job_idx)
        ]
        ended = dict(import_module(self.module).launch(jobs, self.options))
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=ended[number]) for number in range(len(jobs))]


class SlurmLauncher(_RemoteLauncher):
    """Each run is a Slurm job."""

    module = "tlab.launchers.slurm"


class RayLauncher(_RemoteLauncher):
    """Each run is a Ray task."""

    module = "tlab.launchers.ray"
