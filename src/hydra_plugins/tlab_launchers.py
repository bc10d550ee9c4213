"""tlab's launchers, here because Hydra looks for launchers in `hydra_plugins` only; see conf/hydra/launcher."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:  # what a sweep needs is imported when it begins, since Hydra imports this file for --help too
    from tlab.launchers.remote_jobs import RemoteJob


class LocalLauncher(BasicLauncher):
    """Hydra's own launcher, with a key that `tlab.sweeps.forked_workers` reads.

    Args:
        n_jobs: Number of runs at once; None: chosen by `choose_processes` there.
    """

    def __init__(self, n_jobs: int | None = None) -> None:
        super().__init__()
        self.n_jobs = n_jobs


class _RemoteLauncher(Launcher):
    """Runs a sweep's jobs in other processes, by the module of `tlab.launchers` for this kind of cluster.

    Args:
        **options: Keys of the preset in conf/hydra/launcher.
    """

    def __init__(self, **options: Any) -> None:
        self.options: Any = OmegaConf.to_container(OmegaConf.create(options), resolve=True)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what `launch` needs."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run each list of overrides; returns when all runs have ended, failed ones too."""
        ended = dict(self.launch_each(job_overrides, initial_job_idx))
        return [ended[number] for number in range(len(job_overrides))]

    def launch_each(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int = 0
    ) -> Iterator[tuple[int, JobReturn]]:
        """Yield each run's index in `job_overrides` and its result, as the runs end."""
        from tlab.launchers.remote_jobs import make_jobs

        return self.carry_out(make_jobs(self.config, self.context, self.task, job_overrides, initial_job_idx))

    def carry_out(self, jobs: "Sequence[RemoteJob]") -> Iterator[tuple[int, JobReturn]]:
        """Run the jobs; yields as `launch_each` does."""
        raise NotImplementedError


class SlurmLauncher(_RemoteLauncher):
    """Each run is a Slurm job."""

    def carry_out(self, jobs: "Sequence[RemoteJob]") -> Iterator[tuple[int, JobReturn]]:
        """Submit the runs, and wait for them."""
        from tlab.launchers.slurm import launch

        return launch(jobs, self.options)


class RayLauncher(_RemoteLauncher):
    """Each run is a Ray task."""

    def carry_out(self, jobs: "Sequence[RemoteJob]") -> Iterator[tuple[int, JobReturn]]:
        """Hand the runs to Ray, and wait for them."""
        from tlab.launchers.ray import launch

        return launch(jobs, self.options)
