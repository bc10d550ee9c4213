"""Runs of a sweep in other processes, which one of Hydra's launchers starts, here or on other machines."""

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from tlab.config.overrides import key_and_value
from tlab.core.error_messages import is_mistake, one_line
from tlab.core.errors import UserError
from tlab.core.hardware import cpu_count, gpus
from tlab.sweeps.composer import Composer
from tlab.sweeps.jobs import Job
from tlab.sweeps.monitor import Monitor
from tlab.sweeps.progress import Progress
from tlab.sweeps.result import Failure, over
from tlab.sweeps.sequential import BUSY_TIMEOUT
from tlab.sweeps.task import Task
from tlab.sweeps.worker_pool import WorkerPool, forwarding_signals, shares

# Launchers whose runs are this process's own
IN_PROCESS = ("hydra._internal.core_plugins.basic_launcher.", "hydra_plugins.tlab_launchers.LocalLauncher")
LOCAL = "hydra_plugins.hydra_joblib_launcher."  # the launcher whose processes are children of this one


def choose_workers(config: DictConfig, devices: int) -> int:
    """Return how many runs the launcher has at once on this machine, 0 if on others; sets its `n_jobs` to that.

    Args:
        config: The sweep's configuration, with the node `hydra`.
        devices: Number of devices of each run.

    Raises:
        UserError: `hydra.launcher.n_jobs` is 0.
    """
    launcher = config.hydra.launcher
    if not launcher._target_.startswith(LOCAL):
        return 0
    if launcher.n_jobs == 0:
        raise UserError("hydra.launcher.n_jobs=0 runs nothing; give how many runs to have at once, or -1")
    if launcher.n_jobs < 0:
        launcher.n_jobs = len(gpus()) // devices or max(2, cpu_count() // 2)
    return launcher.n_jobs


def most_devices(jobs: Sequence[Job], config: DictConfig) -> int:
    """Return the highest `trainer.devices` of the runs, which may differ in it."""
    given = [value for job in jobs for key, value in map(key_and_value, job.overrides) if key == "trainer.devices"]
    return max([int(value) for value in given if value.isdigit()], default=config.trainer.devices)


def run_launched(jobs: Sequence[Job], composer: Composer, task: Task, progress: Progress) -> None:
    """Run the jobs through the launcher, and record each outcome in `progress`.

    Args:
        jobs: Jobs to run, whose configurations are known to compose.
        composer: Has the sweep's configuration, and Hydra's context.
        task: Task to call for each run.
        progress: Where outcomes are recorded.

    Raises:
        SystemExit: The sweep was told to stop.
    """
    # The monitor says more than what a launcher lists and warns of
    logging.getLogger("hydra_plugins").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given")
    with tempfile.TemporaryDirectory(prefix="tlab_") as folder:
        devices = most_devices(jobs, composer.config)
        at_once = choose_workers(composer.config, devices)
        pool = WorkerPool(Path(folder), os.getpid(), at_once, shares(devices)) if at_once else None
        progress.at_once = max(1, at_once)
        monitor = Monitor(jobs, progress)
        suspects: list[Job] = []
        again = True  # retry once where a process died and no run explains it
        deadline = time.monotonic() + BUSY_TIMEOUT
        with monitor.refreshing(), forwarding_signals(pool, monitor.refresh, "runs"):
            while left := list(monitor.left):
                batch = [suspects.pop()] if suspects else left
                died = _launch(batch, composer, task.on(pool), monitor)
                unclear = [job for job in batch if monitor.is_running(job)]
                if died is not None and pool is not None and unclear and len(batch) > 1:
                    suspects = unclear  # a process was killed, and took the others with it: one of these is why
                elif died is not None and pool is not None and not unclear and again:
                    again = False
                elif died is not None:
                    what = f"its process ended without a word ({one_line(died)})"
                    _give_up(batch, f"{what}; if memory ran out, run fewer at once", monitor)
                elif len(monitor.left) < len(left):
                    deadline = time.monotonic() + BUSY_TIMEOUT
                elif time.monotonic() > deadline:
                    _give_up(left, "another process is at work on it", monitor)
                else:
                    time.sleep(1)
                if monitor.left and pool is not None:
                    _end_workers()  # one that was told to stop takes no run any more


def _launch(jobs: Sequence[Job], composer: Composer, task: Task, monitor: Monitor) -> Exception | None:
    """Hand the jobs to the launcher and wait; returns the error where not all of them have a result."""
    launcher = Plugins.instance().instantiate_launcher(composer.context, task, composer.config)
    try:
        returned = launcher.launch([[*job.overrides, *job.place] for job in jobs], initial_job_idx=0)
    except Exception as error:
        if is_mistake(error):
            raise
        monitor.refresh()
        return error
    for job, result in zip(jobs, returned, strict=True):
        value = over(result)
        failure = value if isinstance(value, Failure) else None
        if failure is None or not failure.busy:
            monitor.record(job, failure)
    return None


def _end_workers() -> None:
    """End the idle processes of joblib's pool, which it keeps for the next launch."""
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)


def _give_up(jobs: Sequence[Job], reason: str, monitor: Monitor) -> None:
    """Record the failure of those jobs that have not ended."""
    for job in jobs:
        if not monitor.is_over(job):
            monitor.record(job, Failure(reason))
            job.run.record_failure(RuntimeError(reason))
