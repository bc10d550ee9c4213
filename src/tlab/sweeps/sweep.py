"""One command with `-m`: which runs there are, which are finished, and the rest carried out one after the other."""

import gc
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import configure_log, run_job
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from tlab.checks import check
from tlab.errors import INTERRUPTED
from tlab.runs.claim import claim_directory, is_named_by_time
from tlab.runs.environment import command
from tlab.sweeps.closing import print_end, print_stopped
from tlab.sweeps.composition import sources_digest
from tlab.sweeps.jobs import Job, make_jobs, one_of_each
from tlab.sweeps.naming import constants
from tlab.sweeps.note import SweepNote, read_note
from tlab.sweeps.progress import Progress
from tlab.sweeps.task import Failure, Task, one_line


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to.

    Attributes:
        directory: Of the sweep.
        failed: How many of its runs are not finished.
    """

    directory: Path
    failed: int


def sweep(runs: Sequence[Sequence[str]], config: DictConfig, context: HydraContext, task: Task) -> SweepResult:
    """Carry out the runs that are not finished yet, and say what came out.

    Finished runs are passed over, interrupted ones go on, failed ones are tried again.

    Args:
        runs: The overrides of each run.
        config: The configuration without the overrides that differ, with the node `hydra`.
        context: Hydra's.
        task: What to call for each run.

    Raises:
        UserError: A mistake that shows before anything has run; HydraException likewise.
        SystemExit: The sweep was told to stop; the run at hand has saved.
    """
    directory = Path(str(config.hydra.sweep.dir)).absolute()
    unnamed = is_named_by_time(config, "hydra.sweep.dir")
    note = None if unnamed else read_note(directory)
    if note is None:
        note = SweepNote(constants(runs), command())
    jobs = make_jobs(runs, str(config.seed), directory, note)
    sources = sources_digest(config.hydra.runtime.config_sources)
    waiting = [job for job in jobs if unnamed or not job.is_known_finished(sources)]
    for job in one_of_each(waiting):
        check(compose_job(job, config, context.config_loader))
    if unnamed:
        directory = claim_directory(directory)
        jobs = waiting = make_jobs(runs, str(config.seed), directory, note)
    if not (directory / "sweep.json").exists():
        note.write(directory)
    progress = Progress(jobs, waiting)
    with _stoppable():
        try:
            for job in waiting:
                progress.announce(job)
                outcome = run_here(job, config, context, task)
                progress.note(job, outcome)
        except (KeyboardInterrupt, SystemExit) as stop:
            print_stopped(directory, jobs)
            raise SystemExit(stop.code if isinstance(stop, SystemExit) else INTERRUPTED) from stop
    print_end(directory, progress)
    return SweepResult(directory, len(progress.failures))


def compose_job(job: Job, config: DictConfig, loader: ConfigLoader) -> DictConfig:
    """Return the configuration of one run, with the node `hydra`.

    Raises:
        HydraException: A mistake in an override.
    """
    return loader.load_sweep_config(config, [*job.overrides, *job.place])


def run_here(job: Job, config: DictConfig, context: HydraContext, task: Task) -> Failure | None:
    """Carry out one run in this process; returns how it failed, if it did."""
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
    _free_memory()
    return returned if isinstance(returned, Failure) else None


def _free_memory() -> None:
    """Let go of the last run's network and images, which refer to each other in circles."""
    gc.collect()
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn SIGTERM into SystemExit where no run listens to it."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
