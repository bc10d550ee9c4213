"""One command with `-m`: its runs, which of them are finished, and the running of the rest."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from tlab.config.digest import sources_digest
from tlab.config.overrides import of_baseline
from tlab.config.unused_keys import Run, check_used
from tlab.config.validation import check
from tlab.core.error_messages import one_line
from tlab.core.errors import INTERRUPTED
from tlab.core.files import check_writable
from tlab.core.signals import stoppable
from tlab.runs.environment import command
from tlab.runs.manifest import SweepManifest, read_manifest
from tlab.runs.unique_directory import is_named_by_time, reserve_directory
from tlab.sweeps.composer import Composer
from tlab.sweeps.forked_workers import choose_processes
from tlab.sweeps.head_groups import head_groups
from tlab.sweeps.jobs import Job, constants, make_jobs, override_cover
from tlab.sweeps.launched import IN_PROCESS, LOCAL, choose_workers, most_devices, run_launched
from tlab.sweeps.progress import Progress, print_end, print_stopped
from tlab.sweeps.result import Failure, SweepResult
from tlab.sweeps.resume import Finished
from tlab.sweeps.sequential import run_in_this_process
from tlab.sweeps.task import Task
from tlab.sweeps.weights import fetch_weights


def sweep(
    runs: Sequence[Sequence[str]],
    config: DictConfig,
    context: HydraContext,
    task: Task,
    shared: dict[str, str] | None = None,
) -> SweepResult:
    """Run what is not finished yet, and print the result.

    Finished runs are skipped, interrupted ones resumed, failed ones tried again.

    Args:
        runs: The overrides of each run.
        config: Configuration without the overrides that differ, with the node `hydra`.
        context: Hydra's context.
        task: Task to call for each run.
        shared: Overrides that no run's name has, if this begins the sweep, see `constants`; None: all that the
            runs share.

    Raises:
        UserError: A mistake that shows before anything has run; HydraException likewise.
        SystemExit: The sweep was told to stop; the run at hand has saved.
    """
    directory = Path(str(config.hydra.sweep.dir)).absolute()
    unnamed = is_named_by_time(config, "hydra.sweep.dir")
    manifest = None if unnamed else read_manifest(directory)
    if manifest is None:
        manifest = SweepManifest(constants(runs) if shared is None else shared, command())
    jobs = make_jobs(runs, str(config.seed), directory, manifest)
    finished = Finished(sources_digest(config.hydra.runtime.config_sources))
    waiting = [job for job in jobs if unnamed or not finished.has(job)]
    composer = Composer(config, context)
    composer.composed = {job: composer.compose(job) for job in override_cover(waiting)}
    some = list(composer.composed.values())
    for run in some:
        check(run)
    for remark in _check_used(jobs, some, composer):
        print(remark)
    from tlab.data.sources.scan import check_apart

    for run in some:
        check_apart(directory, OmegaConf.select(run, "data.root"), "hydra.sweep.dir")
    check_writable(directory.parent if unnamed else directory, "give hydra.sweep.dir=DIR")
    launched = _is_launched(config, waiting)
    processes = 1 if launched else choose_processes(config, some, len(waiting))  # before torch is imported
    if not launched or config.hydra.launcher._target_.startswith(LOCAL):
        fetch_weights(waiting, composer)
    if unnamed and (claimed := reserve_directory(directory)) != directory:
        directory = claimed
        jobs = waiting = make_jobs(runs, str(config.seed), directory, manifest)
    if not (directory / "sweep.json").exists():
        manifest.write(directory)
    config.hydra.sweep.dir = str(directory)
    progress = Progress(jobs, waiting)
    with stoppable():
        try:
            if launched:
                run_launched(_composable(waiting, composer, progress), composer, task, progress)
            else:
                with TemporaryDirectory(prefix="tlab_heads_") as folder:
                    groups = head_groups(waiting, Path(folder), composer.look_at)
                    run_in_this_process(waiting, composer, task, progress, finished, processes, groups)
        except (KeyboardInterrupt, SystemExit) as stop:
            print_stopped(directory, jobs)
            raise SystemExit(stop.code if isinstance(stop, SystemExit) else INTERRUPTED) from stop
    print_end(directory, progress)
    return SweepResult(directory, progress.done, len(progress.failures))


def _check_used(jobs: Sequence[Job], some: Sequence[DictConfig], composer: Composer) -> list[str]:
    """Refuse a key that no run of the command uses, finished or not; returns remarks on keys that some do not use.

    Looks at `some` runs first, which have every override of any unfinished run.
    """

    def others() -> Iterator[Run]:
        for job in jobs:
            run = composer.compose(job)
            yield Run(run)
            for changes in run.baseline.values():
                given = of_baseline(job.overrides, changes)
                yield Run(composer.compose(replace(job, overrides=tuple(given))), given=given)

    begun = (override for job in jobs for override in job.run.overrides())
    return check_used(composer.config.hydra.overrides.task, list(map(Run, some)), others(), begun)


def _is_launched(config: DictConfig, jobs: Sequence[Job]) -> bool:
    """Tell whether a launcher runs the jobs in other processes."""
    return (
        not config.hydra.launcher._target_.startswith(IN_PROCESS)
        and choose_workers(config, most_devices(jobs, config)) != 1
    )


def _composable(jobs: Sequence[Job], composer: Composer, progress: Progress) -> list[Job]:
    """Return the jobs whose configuration can be composed, as a launcher takes none that cannot."""
    composable = []
    for job in jobs:
        try:
            composer.compose(job)
        except Exception as error:
            job.run.record_failure(error)
            progress.record(job, Failure(one_line(error)))
        else:
            composable.append(job)
    return composable
