"""Forked processes that run jobs of a sweep beside the command's own process.

Where only heads train, a run keeps one core busy for a second or two, most of it in Python. A worker is a fork of
this process, made when all is imported and nothing is computed yet (later, threads of torch could hold locks that a
fork never gets). It takes one run after the other, once the first one has computed what all of them share.
"""

import gc
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

from omegaconf import DictConfig

from tlab.core.errors import UserError
from tlab.core.hardware import cpu_count, free_memory, gpus
from tlab.sweeps.jobs import Job
from tlab.sweeps.result import Failure
from tlab.sweeps.worker_pool import SHUTDOWN_TIMEOUT, WorkerPool

FEW = 4  # runs below which a worker costs more than it gives
MOST = 8  # processes
MEMORY = 2 * 10**9  # bytes for each
# What every run imports
IMPORTS = (
    *("lightning.pytorch", "tlab.finetuning", "tlab.models.backbones", "tlab.data.augment.evaluation"),
    *("tlab.runs.history", "tlab.runs.checkpoints", "tlab.dashboards.hparams", "tlab.dashboards.preview"),
    *("tlab.dashboards.confusion", "tlab.dashboards.pr_curves", "tlab.dashboards.top_losses"),
)
# What a run imports besides that has a TensorBoard
BOARD_IMPORTS = (
    *("torch.utils.tensorboard", "torch.utils.tensorboard.summary", "tensorboard.plugins.hparams.summary_v2"),
    *("matplotlib", "PIL.ImageFont"),
)


def choose_processes(config: DictConfig, runs: Sequence[DictConfig], waiting: int) -> int:
    """Return how many processes run a sweep's jobs here, this one included.

    Args:
        config: The sweep's configuration, with the node `hydra`.
        runs: Configurations of some runs that together have every override of any run.
        waiting: Number of runs that are left to do.

    Raises:
        UserError: `hydra.launcher.n_jobs` is no number of processes.
    """
    wanted = config.hydra.launcher.get("n_jobs", 1)
    if wanted is not None and (isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1):
        raise UserError(f"hydra.launcher.n_jobs={wanted} must be a number of runs at once, or null to choose it")
    if wanted == 1 or waiting < FEW or not _can_fork() or not all(map(keeps_one_core_busy, runs)):
        return 1
    return max(1, min(wanted or MOST, cpu_count(), waiting - 1, free_memory() // MEMORY))


def keeps_one_core_busy(run: DictConfig) -> bool:
    """Tell whether a run trains nothing but a head, from stored features and on a CPU, as far as can be told."""
    if "finetune" not in run or run.features.cache != "auto" or run.trainer.devices * run.trainer.num_nodes > 1:
        return False
    accelerator = run.trainer.accelerator
    phases = [phase for phase in run.finetune.phases.values() if phase is not None]
    mixes = [aug.mix for aug in (run.aug, *(phase.get("aug") for phase in phases)) if aug]
    return (
        all(phase.train in ("head", ["head"]) for phase in phases)
        and not any(mix.cutmix_alpha for mix in mixes if mix)
        and run.trainer.limit_train_batches is None
        and run.trainer.limit_val_batches is None
        # last, since it may ask the GPU's driver
        and (accelerator == "cpu" or (accelerator == "auto" and sys.platform != "darwin" and not gpus()))
    )


class Worker:
    """A forked process that runs jobs for this one.

    Args:
        run: Function that it calls with each job.
        pool: Pool in which it takes its place.
    """

    def __init__(self, run: Callable[[Job, WorkerPool], Failure | None], pool: WorkerPool) -> None:
        self.stopped = False
        forking = multiprocessing.get_context("fork")
        self._connection, other = forking.Pipe()
        self._process = forking.Process(target=_serve, args=(other, run, pool))
        self._process.start()
        other.close()

    def run(self, job: Job) -> Failure | None:
        """Have it run a job, and wait for the result."""
        with suppress(OSError, EOFError):
            self._connection.send(job)
            answer: Failure | None = self._connection.recv()
            return answer
        if self.stopped:
            return Failure("stopped", busy=True)
        self.stopped = True
        reason = "its process ended without a word; if memory ran out, give hydra.launcher.n_jobs=1"
        job.run.record_failure(RuntimeError(reason))
        return Failure(reason)

    def stop(self) -> None:
        """Tell it to save a checkpoint, and to end."""
        self.stopped = True
        self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Let it take no other job, and wait for its end; it is killed after `seconds`."""
        with suppress(OSError):
            self._connection.send(None)
        try:
            self._process.join(seconds)
        finally:
            self._process.kill()
            self._process.join()


@contextmanager
def workers(
    processes: int,
    run: Callable[[Job, WorkerPool], Failure | None],
    work: Callable[[Worker], None],
    loggers: object = None,
) -> Iterator[None]:
    """Have forked processes work during the block, and until they have finished what they began.

    Where the block ends by an exception (the sweep was told to stop), they save checkpoints first.

    Args:
        processes: Number of processes, this one included.
        run: Function that a worker calls with each job.
        work: Hands jobs to a worker; called for each worker, in a thread of its own.
        loggers: The runs' loggers, if any; TensorBoard is always among them.
    """
    if processes == 1:
        yield
        return
    # The same number in every process: the last digits of large heads depend on it
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // processes)))
    for name in (*IMPORTS, *(BOARD_IMPORTS if loggers else ())):
        import_module(name)
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory(prefix="tlab_") as folder:
        pool = WorkerPool(Path(folder), os.getpid(), processes, ())
        started = [Worker(run, pool) for _ in range(processes - 1)]
        threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in started]
        for thread in threads:
            thread.start()
        try:
            yield
            for thread in threads:
                thread.join()
        except BaseException:
            for worker in started:
                worker.stop()
            raise
        finally:
            deadline = time.monotonic() + SHUTDOWN_TIMEOUT
            for worker in started:
                worker.wait(max(0.0, deadline - time.monotonic()))


def _serve(orders: Connection, run: Callable[[Job, WorkerPool], Failure | None], pool: WorkerPool) -> None:
    """Run jobs until there are no more."""
    pool.become_worker()
    with Path(os.devnull).open("wb") as nowhere:  # the terminal belongs to the command; a run prints to a file
        os.dup2(nowhere.fileno(), 1)
    while (job := orders.recv()) is not None:
        answer = run(job, pool)
        if pool.is_stopping:
            return
        orders.send(answer)


def _can_fork() -> bool:
    """Tell whether this process can be forked: on Linux, as long as torch has not computed in it."""
    return sys.platform == "linux" and "torch" not in sys.modules
