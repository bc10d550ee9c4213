"""Processes of this machine that carry out runs of a sweep beside the command's own.

Where only heads train, a run keeps one core busy for a second or two, most of it in Python. A helper is a fork of
this process, made when all is imported and nothing is computed yet (later, threads of torch could hold locks that a
fork never gets). It takes one run after the other, from when the first one has computed what all of them share.
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
from tlab.core.eviction import free_memory
from tlab.core.hardware import cpu_count, gpus
from tlab.sweeps.jobs import Job
from tlab.sweeps.result import Failure
from tlab.sweeps.worker_pool import SHUTDOWN_TIMEOUT, WorkerPool

FEW = 4  # runs below which a helper costs more than it gives
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
    *("matplotlib.figure", "matplotlib.backends.backend_agg"),
)


def choose_processes(config: DictConfig, runs: Sequence[DictConfig], waiting: int) -> int:
    """Return how many processes carry out a sweep's runs here, this one counted.

    Args:
        config: Of the sweep, with the node `hydra`.
        runs: Configurations of some runs, in which each override of any run is found.
        waiting: How many runs there are to carry out.

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
    phases = [phase for phase in run.finetune.phases.values() if phase is not None]
    mixes = [aug.mix for aug in (run.aug, *(phase.get("aug") for phase in phases)) if aug]
    return (
        all(phase.train in ("head", ["head"]) for phase in phases)
        and not any(mix.cutmix_alpha for mix in mixes if mix)
        and run.trainer.limit_train_batches is None
        and run.trainer.limit_val_batches is None
        and _is_on_cpu(run.trainer.accelerator)  # last: it may ask the GPU's driver
    )


def _is_on_cpu(accelerator: str) -> bool:
    return accelerator == "cpu" or (accelerator == "auto" and sys.platform != "darwin" and not gpus())


class Worker:
    """A process that carries out runs for this one.

    Args:
        carry_out: What it does with a run.
        machine: Where it takes its place.
    """

    def __init__(self, carry_out: Callable[[Job], Failure | None], machine: WorkerPool) -> None:
        self.stopped = False
        forking = multiprocessing.get_context("fork")
        self._connection, other = forking.Pipe()
        self._process = forking.Process(target=_serve, args=(other, carry_out, machine))
        self._process.start()
        other.close()

    def carry_out(self, job: Job) -> Failure | None:
        """Have it carry out a run, and wait for that."""
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
        """Let it save where it stands, and end."""
        self.stopped = True
        self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Let it take no other run, and wait for its end; it is killed after so many seconds."""
        with suppress(OSError):
            self._connection.send(None)
        try:
            self._process.join(seconds)
        finally:
            self._process.kill()
            self._process.join()


@contextmanager
def helpers(
    processes: int,
    carry_out: Callable[[Job, WorkerPool], Failure | None],
    work: Callable[[Worker], None],
    loggers: object = None,
) -> Iterator[None]:
    """Have processes beside this one work in the block, and until they have done what they began.

    Where the block ends by an exception (the sweep was told to stop), they save first.

    Args:
        processes: How many with this one.
        carry_out: What a helper does with a run.
        work: Called for each helper, in a thread of its own; hands it runs.
        loggers: Of the runs; all kinds are beside a TensorBoard.
    """
    if processes == 1:
        yield
        return
    # In each process the same number, whichever has a run: the last digits of large heads depend on it
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // processes)))
    for name in (*IMPORTS, *(BOARD_IMPORTS if loggers else ())):
        import_module(name)
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory(prefix="tlab_") as folder:
        machine = WorkerPool(Path(folder), os.getpid(), processes, ())
        started = [Worker(lambda job: carry_out(job, machine), machine) for _ in range(processes - 1)]
        threads = [threading.Thread(target=work, args=(helper,), daemon=True) for helper in started]
        for thread in threads:
            thread.start()
        try:
            yield
            for thread in threads:
                thread.join()
        except BaseException:
            for helper in started:
                helper.stop()
            raise
        finally:
            deadline = time.monotonic() + SHUTDOWN_TIMEOUT
            for helper in started:
                helper.wait(max(0.0, deadline - time.monotonic()))


def _serve(orders: Connection, carry_out: Callable[[Job], Failure | None], machine: WorkerPool) -> None:
    """Carry out runs until there are no more."""
    machine.become_worker()
    with Path(os.devnull).open("w") as nowhere:  # the terminal is the command's; a run has a file
        os.dup2(nowhere.fileno(), 1)
    while (job := orders.recv()) is not None:
        answer = carry_out(job)
        if machine.is_stopping:
            return
        orders.send(answer)


def _can_fork() -> bool:
    """Tell whether this process can be forked: on Linux, as long as torch has not computed in it."""
    return sys.platform == "linux" and "torch" not in sys.modules
