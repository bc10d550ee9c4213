"""A run as it is sent to another process, and the record of one whose process ended without a word."""

import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from tlab.config.hydra import keep_own_presets
from tlab.config.hydra_syntax import read_any_letters
from tlab.core.errors import UserError
from tlab.core.standard_streams import guard_streams
from tlab.runs.directory import RunDirectory
from tlab.sweeps.progress import printing_to
from tlab.sweeps.result import Failure, over


@dataclass(frozen=True)
class RemoteJob:
    """One run, with all that a new process needs to run it.

    Attributes:
        overrides: The run's overrides.
        number: Number of the run in the sweep.
        config: The sweep's configuration, with the node `hydra`.
        context: Hydra's context.
        task: Function to call with the run's configuration.
        arguments: The command's `sys.argv`, which the run records.
        folder: Working directory, from which relative paths start.
        registered: State of Hydra's singletons: the schema and the resolvers.
    """

    overrides: list[str]
    number: int
    config: DictConfig
    context: HydraContext
    task: TaskFunction
    arguments: list[str] = field(default_factory=lambda: list(sys.argv))
    folder: str = field(default_factory=os.getcwd)
    registered: Any = field(default_factory=Singleton.get_state)

    def compose(self) -> DictConfig:
        """Return the run's configuration, with the node `hydra`."""
        config = self.context.config_loader.load_sweep_config(self.config, self.overrides)
        with open_dict(config):
            config.hydra.job.num = self.number
            config.hydra.job.id = f"{config.hydra.job.name}_{self.number}"
        return config

    def run(self) -> Any:
        """Run in this process, which was started for it; returns what the task does, or a `Failure`."""
        guard_streams()
        sys.argv = list(self.arguments)
        os.chdir(self.folder)
        Singleton.set_state(self.registered)
        keep_own_presets()
        read_any_letters()
        setup_globals()
        config = self.compose()
        run = _directory(config)
        first = os.environ.get("SLURM_PROCID", "0") == "0"  # of the tasks of a job on several nodes
        with printing_to(run.path / "output.txt") if run is not None and first else nullcontext():
            returned = run_job(
                hydra_context=self.context,
                task_function=self.task,
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
        return over(returned)

    def directory(self) -> RunDirectory | None:
        """Return the run's directory; None for a job that is a worker of a search."""
        return _directory(self.compose())


def _directory(config: DictConfig) -> RunDirectory | None:
    if "run_dir" not in config:
        return None
    return RunDirectory(Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir)


def lost(job: RemoteJob, reason: str) -> Failure | None:
    """Record in the run's directory that its process ended without a word, unless the run had finished."""
    run = job.directory()
    if run is not None:
        if run.status == "finished":
            return None
        run.record_failure(UserError(reason))
    return Failure(reason)
