"""Runs of a sweep one after the other in this process, which imports torch once, and in workers beside it."""

import gc
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from hydra.core.utils import configure_log, run_job
from omegaconf import open_dict

from tlab.core.error_messages import one_line
from tlab.sweeps.composer import Composer
from tlab.sweeps.forked_workers import Worker, workers
from tlab.sweeps.head_groups import HeadGroup
from tlab.sweeps.jobs import Job
from tlab.sweeps.progress import Progress, printing_to_its_directory, warning_once
from tlab.sweeps.result import Failure
from tlab.sweeps.resume import Finished
from tlab.sweeps.task import Task
from tlab.sweeps.worker_pool import WorkerPool

BUSY_TIMEOUT = 60  # seconds to wait for a run that another process is at work on; a stopped one saves meanwhile
POLL = 0.05  # seconds between looks at how far the first run is


def run_in_this_process(
    jobs: Sequence[Job],
    composer: Composer,
    task: Task,
    progress: Progress,
    finished: Finished,
    processes: int,
    groups: Mapping[Job, HeadGroup],
) -> None:
    """Run the jobs, and record each outcome in `progress`; what they print goes to their directories.

    Those that another process is at work on come last: it may have been given the same command, or be about to end.

    Args:
        jobs: Jobs to run.
        composer: Composer of their configurations.
        task: Task to call for each run.
        progress: Where outcomes are recorded.
        finished: Tells which runs another process has finished meanwhile.
        processes: Number of runs at once; the first one is alone until it has trained an epoch, and has
            computed what the others share.
        groups: Groups of runs whose heads may train in one pass.
    """
    queue, busy = deque(jobs), []
    under_way: set[Job] = set()
    lock, shared = threading.Lock(), threading.Event()
    progress.at_once = processes

    def run_alone(job: Job) -> Failure | None:
        failure = run_one(job, composer, task.within(groups.get(job)), progress)
        if not shared.is_set():
            gc.freeze()  # libraries stay; looking through them takes a third of a second each time
        return failure

    def work(by: Callable[[Job], Failure | None], goes_on: Callable[[], bool] = lambda: True) -> None:
        """Run jobs with `by` until none is left."""
        while goes_on():
            try:
                job = queue.popleft()
            except IndexError:
                return
            under_way.add(job)
            progress.running = len(under_way)
            failure = None if finished.has(job) else by(job)
            shared.set()
            with lock:
                under_way.remove(job)
                if failure is not None and failure.busy:
                    busy.append(job)
                else:
                    progress.report(job, failure, len(under_way))

    def run_in_worker(job: Job, pool: WorkerPool) -> Failure | None:
        return run_one(job, composer, task.on(pool).within(groups.get(job)), progress)

    def work_in(worker: Worker) -> None:
        while not (shared.wait(POLL) or jobs[0].run.history_file.exists() or worker.stopped):
            pass
        work(worker.run, lambda: not worker.stopped)

    with warning_once(progress.console):
        with workers(processes, run_in_worker, work_in, composer.config.get("logger")):
            work(run_alone)
        for job in busy:
            deadline = time.monotonic() + BUSY_TIMEOUT
            while (failure := run_alone(job)) and failure.busy and time.monotonic() < deadline:
                time.sleep(1)
            progress.report(job, failure, running=0)


def run_one(job: Job, composer: Composer, task: Task, progress: Progress) -> Failure | None:
    """Run a job in this process; returns its failure, if any."""
    try:
        own = composer.compose(job)
    except Exception as error:
        job.run.record_failure(error)
        return Failure(one_line(error))
    with open_dict(own):
        own.hydra.job.id = own.hydra.job.num = 0
    try:
        with printing_to_its_directory(job, progress):
            returned = run_job(
                task_function=task,
                config=own,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
                hydra_context=composer.context,
            ).return_value
    except OSError as error:  # its directory cannot be made, or its log
        job.run.record_failure(error)
        returned = Failure(one_line(error))
    hydra = composer.config.hydra
    configure_log(hydra.hydra_logging, hydra.verbose)  # closes the run's log
    release_memory()
    return returned if isinstance(returned, Failure) else None


def release_memory() -> None:
    """Free the last run's network and images, which refer to each other in cycles."""
    gc.collect()
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
