"""A worker takes trials of a study one after the other; several of them are started by Hydra's launchers."""

import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from tlab.cores import gpus
from tlab.errors import UserError
from tlab.mistakes import is_mistake
from tlab.search.progress import Progress
from tlab.search.study import Study
from tlab.search.trial import Train, carry_out
from tlab.sweeps.elsewhere import LOCAL
from tlab.sweeps.task import ignore_schema_warnings
from tlab.sweeps.worker import GRACE, Machine

log = logging.getLogger(__name__)

FAILURES = 3  # of the first trials, after which a study is given up


def work(study: Study, train: Train, minutes: float | None, progress: Progress | None = None) -> None:
    """Carry out trials until the budget is spent.

    Args:
        study: Of which trials are taken.
        train: `tlab.train.train`.
        minutes: After which no other trial is begun; those under way are finished. None: no limit.
        progress: Tells of each trial; None where the process that waits does.

    Raises:
        UserError: The first trials failed, all of them.
    """
    start = time.monotonic()
    while minutes is None or time.monotonic() - start < 60 * minutes:
        with study.claim() as claim:
            if claim is None:
                return
            if claim.continued:
                log.info("trial %d goes on", claim.trial.number)
            carry_out(study, claim, train)
        if progress is not None:
            progress.tell()
        failed = study.trials("FAIL")
        if len(failed) >= FAILURES and not study.trials("COMPLETE", "PRUNED"):
            raise UserError(
                f"the first {len(failed)} trials failed, the last one so: {failed[-1].user_attrs.get('error')}; "
                f"mend it and give another study=NAME"
            )


class WorkerTask:
    """What a launcher calls in each worker's process, to which it is pickled.

    Args:
        task: A function of a module.
        machine: Which the workers share; None on other machines.
    """

    def __init__(self, task: Callable[..., str | None], machine: Machine | None) -> None:
        self.task = task
        self.machine = machine

    def __reduce__(self) -> tuple[Any, ...]:
        return _in_another_process, (self.task, self.machine)

    def __call__(self, cfg: DictConfig) -> str | None:
        """Work with the configuration of one worker; returns the mistake that it met, if any."""
        return self.task(cfg, self.machine)


def _in_another_process(task: Callable[..., str | None], machine: Machine | None) -> WorkerTask:
    ignore_schema_warnings()  # before Hydra composes there
    return WorkerTask(task, machine)


def launch(task: Callable[..., str | None], study: Study, workers: int) -> None:
    """Call `task` in so many processes by the launcher that the command names, and wait for them.

    Those that joblib starts share this machine: each has its part of the cores and GPUs, ends when this process
    does, and saves when this one is told to stop. What they print lies in `workers/<n>/output.txt`.

    Args:
        task: Takes the command's configuration with another `worker`, and the machine that it shares with
            the others, if they are here; returns the mistake that it met, if any.
        study: Watched.
        workers: How many.

    Raises:
        UserError: Of a worker.
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
        machine = Machine(Path(folder), os.getpid(), workers, _shares(workers)) if here else None
        if here:
            config.hydra.launcher.n_jobs = workers
        launcher = Plugins.instance().instantiate_launcher(context, WorkerTask(task, machine), config)
        with Progress(study).watching(), _handing_on(machine, study):
            results = launcher.launch([[*given.task, f"worker={n}"] for n in range(workers)], initial_job_idx=0)
    for result in results:
        if result.status != JobStatus.COMPLETED:
            error = result._return_value
            raise error if is_mistake(error) else RuntimeError(f"a worker failed: {error}") from error
        if result.return_value is not None:
            raise UserError(result.return_value)


def _shares(workers: int) -> tuple[str, ...]:
    """Return the GPUs of each worker, joined by commas; where they are fewer, workers take turns."""
    here = gpus()
    each = max(1, len(here) // workers)
    return tuple(",".join(here[start : start + each]) for start in range(0, len(here) - each + 1, each))


@contextmanager
def _handing_on(machine: Machine | None, study: Study) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM stop the workers, whose runs save, then the command; a second stops all."""
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if machine is not None and not stopping:
            stopping = True
            print(
                "tlab: stopping; the trials under way save first (once more: at once)", file=sys.stderr, flush=True
            )
            for worker in machine.workers():
                try:
                    os.kill(worker, signal.SIGTERM)
                except ProcessLookupError:
                    continue
            deadline = time.monotonic() + GRACE
            while study.is_worked_on() and time.monotonic() < deadline:
                time.sleep(0.2)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
