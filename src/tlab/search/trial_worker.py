"""Workers, which take trials of a study one after the other; several are started by a Hydra launcher."""

import logging
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from tlab.core.error_messages import is_mistake, one_line, user_message
from tlab.core.errors import UserError
from tlab.core.hardware import gpus
from tlab.core.signals import stoppable
from tlab.search.commands import resume_command
from tlab.search.study import Study
from tlab.search.trial import Train, run_trial
from tlab.search.trial_lines import Progress
from tlab.sweeps.launched import LOCAL
from tlab.sweeps.monitor import polling
from tlab.sweeps.result import Failure
from tlab.sweeps.sequential import release_memory
from tlab.sweeps.task import Task
from tlab.sweeps.worker_pool import WorkerPool, forwarding_signals, shares

log = logging.getLogger(__name__)

FAILURES = 3  # number of first trials, all failed, after which a study is given up


def work(study: Study, train: Train, minutes: float | None, progress: Progress | None = None) -> None:
    """Run trials until the budget is spent.

    Args:
        study: Study whose trials are taken.
        train: The function `tlab.train.train`.
        minutes: Minutes after which no trial is begun; those under way are finished. None: no limit.
        progress: Prints each trial; None where the waiting process does.

    Raises:
        UserError: All of the first trials failed.
    """
    start = time.monotonic()
    while minutes is None or time.monotonic() - start < 60 * minutes:
        with study.lease() as lease:
            if lease is None:
                return
            if lease.continued:
                log.info("trial %d is resumed", lease.trial.number)
            run_trial(study, lease, train)
        release_memory()
        if progress is not None:
            progress.report()
        failed = study.trials("FAIL")
        if len(failed) >= FAILURES and not study.trials("COMPLETE", "PRUNED"):
            raise UserError(
                f"the first {len(failed)} trials failed, the last one so: {failed[-1].user_attrs.get('error')}; "
                f"mend it and give another study=NAME"
            )


class WorkerTask(Task):
    """Runs trials in each worker's process, to which it is pickled; without a pool that is on another machine."""

    def __call__(self, cfg: DictConfig) -> str | None:
        """Work with the configuration of one worker; returns the user's mistake that it met, if any."""
        output = Path(HydraConfig.get().runtime.output_dir) / "output.txt"
        try:
            with self.pool.work(output) if self.pool is not None else nullcontext():
                self.function(cfg)
        except SystemExit:  # here it would end the waiting process, which has been told to stop as well
            if self.pool is None:  # a job of a cluster ends with its run's code, by which Slurm queues it again
                raise
        except Exception as error:
            if not is_mistake(error):
                raise
            return user_message(error)
        return None


def launch(search: Callable[[DictConfig], None], study: Study, workers: int) -> None:
    """Call `search` in `workers` processes by the launcher that the command names, and wait for them.

    Those that joblib starts share this machine: each has its part of the cores and GPUs, ends when this process
    does, and saves when this one is told to stop. What they print lies in `workers/<n>/output.txt`.

    Args:
        search: Takes the command's configuration with another `worker`, and runs trials.
        study: Study whose progress is printed.
        workers: Number of processes.

    Raises:
        UserError: A worker met a user's mistake, or was killed.
        RuntimeError: A worker failed otherwise.
        SystemExit: The search was told to stop.
    """
    given = HydraConfig.get().overrides
    hydra: Any = GlobalHydra.instance().hydra
    config = hydra.compose_config(
        config_name=HydraConfig.get().job.config_name,
        overrides=[*given.hydra, *given.task],
        run_mode=RunMode.MULTIRUN,
        with_log_configuration=False,
    )
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
    logging.getLogger("hydra_plugins").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="tlab_") as folder:
        here = config.hydra.launcher._target_.startswith(LOCAL)
        each = max(1, len(gpus()) // workers)  # where GPUs are fewer than workers, these take turns
        pool = WorkerPool(Path(folder), os.getpid(), workers, shares(each)) if here else None
        if here:
            config.hydra.launcher.n_jobs = workers
        launcher = Plugins.instance().instantiate_launcher(context, WorkerTask(search, pool=pool), config)
        jobs = [[*given.task, f"worker={n}"] for n in range(workers)]
        with stoppable(), polling(Progress(study).report), forwarding_signals(pool, study.is_worked_on, "trials"):
            try:
                results = launcher.launch(jobs, initial_job_idx=0)
            except Exception as error:
                if is_mistake(error):
                    raise
                raise UserError(_lost(study, one_line(error))) from error
    for result in results:
        if result.status != JobStatus.COMPLETED:
            failure = result._return_value  # the property would print
            raise RuntimeError(f"a worker failed: {failure}") from failure
        if isinstance(result.return_value, Failure):  # of a job that a cluster has lost
            raise UserError(_lost(study, result.return_value.reason))
        if result.return_value is not None:
            raise UserError(result.return_value)


def _lost(study: Study, reason: str) -> str:
    """Return the sentence for a worker that is gone."""
    again = resume_command(study)
    return f"a worker ended without a word ({reason}); {again} resumes it; if memory ran out, give fewer workers"
