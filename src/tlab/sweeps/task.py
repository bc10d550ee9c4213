"""What Hydra calls for each run of a command, in this process or in another one to which it is pickled."""

import importlib
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from tlab.config.hydra import ignore_schema_warnings
from tlab.config.overrides import as_override
from tlab.core.error_messages import exit_code, exit_with_error, is_mistake, one_line, user_message
from tlab.core.errors import FAILED, OutOfMemory, RunDirectoryConflict, RunDirectoryLocked
from tlab.core.lazy_imports import defer_heavy_imports
from tlab.core.text import short_path
from tlab.runs.directory import RunDirectory
from tlab.runs.environment import same_command
from tlab.sweeps.head_groups import HeadGroup
from tlab.sweeps.result import Failure, SweepResult
from tlab.sweeps.worker_pool import WorkerPool

FAILED_EARLY = {".hydra", ".lock", "run.json", "traceback.txt"}  # of a run that met a mistake before it began


class Task:
    """Calls a function for each run, and reports a user's mistake in one sentence.

    Alone, a mistaken run ends the command. In a sweep a run that fails for any reason is recorded in its directory
    and returns a `Failure`, so that the others go on.

    Args:
        function: Function that takes a run's configuration, and `group` where it has one.
        debug: Whether to show the tracebacks of mistakes.
        pool: Pool of the sweep's workers on this machine, if it has some.

    Attributes:
        result: Result of tlab's sweep, once it has ended; None before, and without a sweep.
        failures: Number of runs that failed in this process.
    """

    def __init__(self, function: Callable[..., Any], debug: bool = False, pool: WorkerPool | None = None) -> None:
        self.function = function
        self.debug = debug
        self.pool = pool
        self.result: SweepResult | None = None
        self.failures = 0
        self.__wrapped__ = function  # from which Hydra takes the name of the command

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the function by the name under which other processes import it, which is never `__main__`."""
        return _in_another_process, (type(self), _importable(self.function), self.debug, self.pool)

    def on(self, pool: WorkerPool | None) -> "Task":
        """Return this task for the workers of a pool."""
        return Task(self.function, self.debug, pool)

    def within(self, group: HeadGroup | None) -> "Task":
        """Return this task for a run of a group, of which its function is told."""
        return self if group is None else Task(partial(self.function, group=group), self.debug, self.pool)

    def __call__(self, cfg: DictConfig) -> Any:
        """Call the function for one run, whose directory and log Hydra has set up."""
        directory = RunDirectory(Path(HydraConfig.get().runtime.output_dir))
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            return self._alone(cfg, directory)
        if self.pool is None:
            return self._one_of_many(cfg, directory)
        begun = False
        try:
            with self.pool.work(directory.path / "output.txt"):
                begun = True
                return self._one_of_many(cfg, directory)
        except SystemExit:  # would end the waiting process, which has said so
            return Failure("stopped", busy=not begun)

    def _alone(self, cfg: DictConfig, directory: RunDirectory) -> Any:
        new = _is_new(directory.path)
        try:
            return self.function(cfg)
        except (SystemExit, KeyboardInterrupt) as stop:
            between = isinstance(stop, KeyboardInterrupt)  # a run and its baseline
            if directory.last.exists() and (between or _is_interrupted(directory)):
                print(f"tlab: stopped; {_resuming(directory)}", file=sys.stderr)
            raise
        except Exception as error:
            if self.debug or not is_mistake(error):
                raise
            if new:
                _remove_if_unused(directory, f"{HydraConfig.get().job.name}.log")
            code, message = exit_code(error), user_message(error)
            if code == FAILED and not isinstance(error, OutOfMemory) and directory.last.exists():
                message += f"; {_resuming(directory)} from {directory.last}"
            exit_with_error(message, code)

    def _one_of_many(self, cfg: DictConfig, directory: RunDirectory) -> Any:
        try:
            return self.function(cfg)
        except Exception as error:
            reason = one_line(error)
            if isinstance(error, RunDirectoryLocked):
                return Failure(reason, busy=True)
            self.failures += 1
            if "run_dir" in cfg and not isinstance(error, RunDirectoryConflict):
                directory.record_failure(error)
            if self.debug:
                traceback.print_exc()
            print(f"tlab: {HydraConfig.get().job.override_dirname}: {reason}", file=sys.stderr, flush=True)
            return Failure(reason)


def _resuming(directory: RunDirectory) -> str:
    same = same_command(as_override("hydra.run.dir", short_path(directory.path)))
    return f"{os.environ.get('TLAB_COMMAND') or same} resumes it"


def _in_another_process(kind: type[Task], *arguments: Any) -> Task:
    defer_heavy_imports()  # a cluster may have started this process with an environment of its own
    ignore_schema_warnings()  # before Hydra composes there
    return kind(*arguments)


def _importable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as `import` gives it: after `python -m tlab.train` its module is called `__main__`."""
    spec = sys.modules["__main__"].__spec__
    if function.__module__ != "__main__" or spec is None:
        return function
    return getattr(importlib.import_module(spec.name), function.__name__)


def _is_interrupted(directory: RunDirectory) -> bool:
    """Tell whether a run, or a baseline of it, was stopped."""
    runs = [directory, *map(RunDirectory, directory.path.glob("baselines/*"))]
    return any(run.record.get("error") == "interrupted" for run in runs)


def _is_new(directory: Path) -> bool:
    """Tell whether there is nothing in a directory but an empty log."""
    return all(file.suffix == ".log" and file.stat().st_size == 0 for file in directory.iterdir())


def _remove_if_unused(directory: RunDirectory, log: str) -> None:
    """Remove a directory, new when the command began, in which there is no more than its log and a failure."""
    names = {file.name for file in directory.path.iterdir()}
    begun = "seed" in directory.record  # which is written right before training
    if log in names and names <= {log, *FAILED_EARLY} and not begun:
        shutil.rmtree(directory.path, ignore_errors=True)
