"""Runs of a sweep one after the other in this process, which imports torch once."""

import gc
import sys
import time
from collections.abc import Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import configure_log, run_job
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from tlab.sweeps.composition import sources_digest
from tlab.sweeps.jobs import Job
from tlab.sweeps.progress import Progress
from tlab.sweeps.task import Failure, Task, one_line

PATIENCE = 60  # seconds to wait for a run that another process is at work on; a stopped one saves meanwhile


def run_one_by_one(
    jobs: Sequence[Job], config: DictConfig, context: HydraContext, task: Task, progress: Progress
) -> None:
    """Carry out the runs, and note in `progress` what becomes of each.

    Those that another process is at work on come last: it may have been given the same command, or be about to end.
    """
    sources = sources_digest(config.hydra.runtime.config_sources)
    busy = []
    for job in jobs:
        progress.announce(job)
        failure = None if job.is_known_finished(sources) else _run(job, config, context, task)
        if failure is not None and failure.busy:
            busy.append(job)
        else:
            progress.note(job, failure)
        _free_memory()
    for job in busy:
        progress.announce(job)
        deadline = time.monotonic() + PATIENCE
        while (failure := _run(job, config, context, task)) and failure.busy and time.monotonic() < deadline:
            time.sleep(1)
        progress.note(job, failure)


def compose_job(job: Job, config: DictConfig, loader: ConfigLoader) -> DictConfig:
    """Return the configuration of one run, with the node `hydra`.

    Raises:
        HydraException: A mistake in an override.
    """
    return loader.load_sweep_config(config, [*job.overrides, *job.place])


def _run(job: Job, config: DictConfig, context: HydraContext, task: Task) -> Failure | None:
    try:
        own = compose_job(job, config, context.config_loader)
    except Exception as error:
        job.run.record_failure(error)
        return Failure(one_line(error))
    with open_dict(own):
        own.hydra.job.id = own.hydra.job.num = 0
    returned = run_job(
        task_function=task,
        config=own,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=context,
    ).return_value
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)  # closes the run's log
    return returned if isinstance(returned, Failure) else None


def _free_memory() -> None:
    """Let go of the last run's network and images, which refer to each other in circles."""
    gc.collect()
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
