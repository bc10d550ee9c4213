"""Starts the processes of one run, shares values and errors between them, and ends all when one fails.

Imports torch only when processes are started.
"""

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from omegaconf import DictConfig, OmegaConf

from tlab.core.error_messages import as_told, exit_code, is_mistake, user_message
from tlab.core.errors import FAILED, RunFailed, UserError
from tlab.core.hardware import limit_threads
from tlab.core.lazy_imports import INHERITED
from tlab.core.rendezvous import next_rendezvous, this_node
from tlab.core.signals import STOPPING, ignore_stopping
from tlab.core.standard_streams import guard_streams

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

T = TypeVar("T")

_rank = 0  # rank of this process in its run; not $RANK, which a cluster may have set for something else

COLLECTIVE_TIMEOUT = timedelta(hours=2)  # the first process may have many images to check while the others wait
SHUTDOWN_TIMEOUT = 60  # seconds for a stopped process to write its last checkpoint


class ProcessError(Exception):
    """An error in another process, with its traceback as text."""


def first_process() -> bool:
    """Tell whether this is the run's process of rank 0, the only one that writes files and logs."""
    return _rank == 0


def join_nodes(nodes: int) -> int:
    """Return the rank of this node; on all but the first, this command stops writing files and logging.

    With one node the rank is 0, whatever a cluster has set for other purposes (Slurm: the task's).

    Raises:
        UserError: The environment does not say which node this is.
    """
    from lightning_utilities.core.rank_zero import rank_zero_only

    global _rank
    _rank = this_node(nodes).rank if nodes > 1 else 0
    rank_zero_only.rank = _rank  # type: ignore[attr-defined]
    if _rank > 0:  # else torch warns, in many lines, that the first node ended before the last answer
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    return _rank


@contextmanager
def first_process_first() -> Iterator[None]:
    """Run the block in the first process, then in the others, so that these find what it left in the caches.

    An exception in the first process is raised in all, as by `from_first_process`.
    """
    if not first_process():
        _share()
        yield
        return
    with _telling_errors():
        yield
    _share()


def from_first_process(compute: Callable[..., T], *arguments: Any) -> T:
    """Call `compute(*arguments)` in the first process only, and return its result in every process.

    Raises:
        Exception: Whatever `compute` raises; in the others a `UserError` if it is a mistake, else a `ProcessError`.
    """
    if not first_process():
        return _share()
    with _telling_errors():
        answer = compute(*arguments)
    return _share(answer)


def from_all_processes(mine: T) -> list[T]:
    """Return the values of all processes in every process, in order of rank (all-gather)."""
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [mine]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


@contextmanager
def _telling_errors() -> Iterator[None]:
    """Raise an exception of the block in the other processes too, which wait for the first one."""
    try:
        yield
    except Exception as error:
        told = as_told(error) if is_mistake(error) else ProcessError(f"\n{traceback.format_exc()}")
        with suppress(Exception):  # they may have ended, and this error is the one that counts
            _share(error=told)
        raise


def _share(answer: Any = None, error: Exception | None = None) -> Any:
    """Return the first process's `answer` in every process; its `error`, if any, is raised in the others."""
    import torch

    words: list[Any] = [answer, error]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(words)
    if words[1] is not None and not first_process():
        raise words[1]
    return words[0]


def run_in_processes(
    task: Callable[..., T], arguments: tuple[Any, ...], processes: int, backend: str, nodes: int = 1
) -> T:
    """Call `task(*arguments)` in new processes, and return the result of the first one on this node.

    The default group of `torch.distributed` exists when the task begins, and each process has its share of the
    cores. Only the first one reaches the terminal and the log. When one fails, the others are ended; Ctrl-C,
    SIGTERM and a cluster's warning signals are forwarded, and no process outlives this one.

    Args:
        task: Module-level function, which the processes import.
        arguments: Arguments of the task; pickled. All nodes take those of the first.
        processes: Number of processes on this node.
        backend: `gloo` (CPU) or `nccl` (GPU).
        nodes: Number of nodes, on each of which a command calls this; see `tlab.core.rendezvous`.

    Raises:
        UserError: A process met a mistake of the user or was killed from outside, or a node did not appear.
        KeyboardInterrupt: Ctrl-C, once the processes have ended.
        SystemExit: Another signal, likewise.
        ProcessError: A process raised anything else.
    """
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError("trainer.devices above 1 starts its processes itself; give the command without torchrun")
    node, meeting = next_rendezvous(nodes)
    silent = {rank: Std.NONE if rank == node.rank == 0 else Std.ALL for rank in range(processes)}
    with tempfile.TemporaryDirectory(prefix="tlab_") as folder, _as_it_was():
        config = LaunchConfig(
            min_nodes=nodes,
            max_nodes=nodes,
            nproc_per_node=processes,
            max_restarts=0,
            start_method="spawn",
            signals_to_handle=",".join(number.name for number in STOPPING),
            shutdown_timeout=SHUTDOWN_TIMEOUT,
            logs_specs=DefaultLogsSpecs(folder, silent),
            **meeting,
        )
        try:
            results = elastic_launch(config, _process)(task, arguments, backend, _logging(), Path(folder))
            return results[min(results)]
        except torch.distributed.DistError as error:
            raise UserError(
                f"node {node.rank} of trainer.num_nodes={nodes} waited in vain for the others at {node.address}:"
                f"{node.port}; see what they say, and whether that port is open (MASTER_PORT gives another)"
            ) from error
        except ChildFailedError as error:
            _raise_reason(error, Path(folder))
        except SignalException as stopped:
            if stopped.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            sys.exit(128 + stopped.sigval)


def _process(
    task: Callable[..., T], arguments: tuple[Any, ...], backend: str, logs: tuple[Any, Any] | None, folder: Path
) -> T | None:
    """Run the task as one of the processes; a failure is written to `folder` for the parent process."""
    import torch
    from lightning_utilities.core.rank_zero import rank_zero_only  # what Lightning uses, without its long import

    global _rank
    _rank = rank = int(os.environ["RANK"])
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # Ctrl-C reaches the parent only, which forwards it once
    rank_zero_only.rank = rank  # type: ignore[attr-defined]  # Lightning may have been imported before the environment was set
    threading.Thread(target=_end_with_parent, daemon=True).start()
    guard_streams()
    limit_threads()
    if logs is not None and first_process():
        configure_log(OmegaConf.create(logs[0]), logs[1])
    try:
        if backend == "nccl":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
        result = task(*from_first_process(lambda: arguments))
        torch.distributed.destroy_process_group()
    except Exception as error:
        failure = {
            "mistake": user_message(error) if is_mistake(error) else None,
            "exit_code": exit_code(error),
            "time": time.time(),
            "traceback": traceback.format_exc(),
        }
        (folder / f"{rank}.json").write_text(json.dumps(failure), encoding="utf-8")
        raise
    finally:
        ignore_stopping()  # a parent that is killed may send its signal twice, once for each of its threads
    return result if os.environ["LOCAL_RANK"] == "0" else None


def _end_with_parent() -> None:
    """Wait for the parent process to end, then stop this one: first by a signal, later by force."""
    import multiprocessing

    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    if sys.platform != "linux":  # on Linux torch has asked the kernel for that signal
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SHUTDOWN_TIMEOUT)
    os._exit(1)


def _raise_reason(error: "ChildFailedError", folder: Path) -> NoReturn:
    """Raise the exception for a failed process; `folder` has the failures that processes wrote."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")]
    # the cause first: a mistake before its consequences elsewhere
    failures = sorted(found, key=lambda failure: (failure["mistake"] is None, failure["time"]))
    cause = ProcessError(f"\n{failures[0]['traceback']}") if failures else None
    rank, failure = error.get_first_failure()
    if failures and failures[0]["mistake"] is not None:
        raise (RunFailed if failures[0]["exit_code"] == FAILED else UserError)(failures[0]["mistake"]) from cause
    if not failures and failure.exitcode > 128:  # one of them stopped at a signal
        sys.exit(failure.exitcode)
    if failure.exitcode < 0:  # it wrote no failure, and those of the others are consequences
        raise UserError(
            f"process {rank} of the run was killed by {signal.Signals(-failure.exitcode).name}; if memory ran out, "
            f"lower data.num_workers, or, with another hydra.run.dir, data.batch_size or trainer.devices"
        ) from cause
    if failures:
        raise ProcessError(
            f"one of the run's processes failed: {failures[0]['traceback'].splitlines()[-1]}"
        ) from cause
    raise UserError(
        f"process {rank} of the run ended with exit code {failure.exitcode} before it began; a script that trains "
        f"in several processes needs `if __name__ == '__main__':` around what it does"
    ) from cause


def _logging() -> tuple[Any, Any] | None:
    """Return Hydra's logging setup here (configuration, verbosity); None outside a command."""
    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    assert isinstance(hydra.job_logging, DictConfig)
    verbose = hydra.verbose if isinstance(hydra.verbose, bool | str) else OmegaConf.to_container(hydra.verbose)
    return OmegaConf.to_container(hydra.job_logging, resolve=True), verbose


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Silence torch's launcher, and restore the signal handlers that it replaces.

    Processes started in the block defer heavy imports, whether this one does or not.
    """
    inherited = INHERITED in os.environ
    os.environ[INHERITED] = "1"
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    names = ("torch.distributed.elastic", "torch.distributed.launcher", "torch.multiprocessing")
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.propagate = False
        logger.addHandler(logging.NullHandler())
    try:
        yield
    finally:
        if not inherited:
            del os.environ[INHERITED]
        for logger in loggers:
            logger.propagate = True
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
