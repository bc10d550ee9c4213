"""The runs of a sweep as jobs of Slurm (`hydra/launcher=submitit_slurm`), submitted by submitit as one job array.

A job that Slurm stops early (its time is up, another one needs the place) saves first, is requeued, and resumes in
the same run directory. A job's outcome is read from the file that submitit leaves, and from squeue, which
answers without Slurm's accounting too.
"""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tlab.core.errors import UserError
from tlab.core.hardware import limit_threads
from tlab.core.signals import WARNINGS, leave
from tlab.core.text import counted
from tlab.launchers.remote_jobs import RemoteJob, lost
from tlab.sweeps.result import Failure

OVER = {
    *("CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE"),
    *("PREEMPTED", "REVOKED"),
}
ADVICE = {
    "OUT_OF_MEMORY": "raise hydra.launcher.mem_gb, or lower data.batch_size",
    "TIMEOUT": "raise hydra.launcher.timeout_min, or hydra.launcher.signal_delay_s if saving takes longer",
    "CANCELLED": "the same command resumes it",
}
ASK = 10.0  # seconds between two questions to Slurm
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds between tries, within the 30 that Slurm mostly gives a job to end
LEAVING = 60.0  # seconds that cancelled jobs are given to save
NAMES = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node")  # without the prefix `slurm_`

T = TypeVar("T")


def launch(jobs: Sequence[RemoteJob], options: dict[str, Any]) -> Iterator[tuple[int, Any]]:
    """Submit the jobs and yield each one's index in `jobs` and what it returned, as they end.

    Stopped before that, by Ctrl-C or SIGTERM, it cancels those that are left, which save first.

    Args:
        jobs: Runs to submit.
        options: Keys of conf/hydra/launcher/submitit_slurm.yaml.

    Raises:
        UserError: There is no Slurm here, or it refuses the jobs.
    """
    options = dict(options)
    folder = Path(options.pop("submitit_folder")).absolute()
    waiting = dict(enumerate(_submit(jobs, folder, options)))
    gone: set[int] = set()  # not in the queue any more when Slurm was asked last
    asked = time.monotonic()
    try:
        while waiting:
            present = {file.name for file in folder.iterdir()}  # read anew, which a shared disk needs
            due = time.monotonic() - asked >= ASK
            states = _states(waiting.values()) if due else None
            asked = time.monotonic() if due else asked
            for number, job in list(waiting.items()):
                if job.paths.result_pickle.name in present:
                    yield number, _read(job.paths.result_pickle)
                elif states is None:
                    continue
                elif (state := states.get(job.job_id, "")) not in {*OVER, ""}:
                    gone.discard(number)
                    continue
                elif number not in gone:  # its file may still be on the way
                    gone.add(number)
                    continue
                else:
                    yield number, lost(jobs[number], _reason(job.job_id, state, job.paths.stdout))
                del waiting[number]
            time.sleep(0.5)
    finally:
        if waiting:
            _cancel(waiting.values())


def run_job(job: RemoteJob, max_requeues: int) -> Any:
    """Run inside a Slurm job; if Slurm stops that early, requeue the job, at most `max_requeues` times."""
    for number in (signal.SIGTERM, *WARNINGS):
        signal.signal(number, leave)
    limit_threads()
    try:
        return job.run()
    except SystemExit as stop:
        _queue_again(stop.code, max_requeues)
        raise


def _queue_again(code: Any, max_requeues: int) -> None:
    for number in (signal.SIGTERM, *WARNINGS):  # which requeueing sends too
        signal.signal(number, signal.SIG_IGN)
    if int(os.environ.get("SLURM_PROCID", "0")) > 0:
        sys.exit(0)  # the first node's task requeues the job, and must not be killed for this one's code
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    warned = code in [128 + number for number in WARNINGS]
    # Cancelling or requeueing a job by hand takes it out of this state before the signal comes
    preempted = code == 128 + signal.SIGTERM and _patiently(lambda: _ask(name).get(name)) == "RUNNING"
    if not (warned or preempted):
        return
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) >= max_requeues:
        raise UserError(
            f"Slurm has stopped the job {counted(max_requeues + 1, 'time')}; raise hydra.launcher.timeout_min or "
            f"hydra.launcher.max_requeues, and give the command again"
        )
    print(f"tlab: job {name} is queued again", flush=True)
    if _patiently(lambda: subprocess.run(["scontrol", "requeue", name], check=True)) is None:
        print(f"tlab: Slurm does not answer; scontrol requeue {name}, or the same command, resumes it", flush=True)


def _patiently(ask: Callable[[], T]) -> T | None:
    """Return Slurm's answer; None where it gives none within the time that a job has left, as while it restarts."""
    for wait in (*PAUSES, None):
        try:
            return ask()
        except (subprocess.CalledProcessError, OSError):
            if wait is not None:
                time.sleep(wait)
    return None


def _submit(jobs: Sequence[RemoteJob], folder: Path, options: dict[str, Any]) -> list[Any]:
    """Submit the jobs; returns submitit's job for each."""
    try:
        import submitit
    except ImportError as error:
        raise UserError("hydra/launcher=submitit_slurm needs submitit; give pip install submitit") from error
    if shutil.which("sbatch") is None:
        raise UserError(
            "hydra/launcher=submitit_slurm found no sbatch here; give the command where jobs are submitted, "
            "or leave the launcher out"
        )
    max_requeues = options.pop("max_requeues")
    executor = submitit.AutoExecutor(folder, cluster="slurm")
    executor.update_parameters(
        **{name if name in NAMES else f"slurm_{name}": value for name, value in options.items()},
        tasks_per_node=1,
        stderr_to_stdout=True,
    )
    try:
        return executor.map_array(run_job, jobs, [max_requeues] * len(jobs))
    except (subprocess.CalledProcessError, submitit.core.utils.FailedJobError) as error:
        said = str(getattr(error, "stderr", None) or error).strip().splitlines()[-1]
        raise UserError(
            f"Slurm refused the jobs ({said}); see the keys of hydra.launcher with --cfg hydra"
        ) from error


def _read(file: Path) -> Any:
    outcome, result = pickle.loads(file.read_bytes())
    if outcome == "success":
        return result
    return Failure(result.strip().splitlines()[-1].removeprefix("tlab.core.errors.UserError: "))


def _reason(name: str, state: str, log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    said = next((f" ({line.strip()})" for line in reversed(lines) if line.strip()), "")
    return (
        f"Slurm job {name} ended{f' as {state}' if state else ''} before its run did{said}; "
        f"{ADVICE.get(state, f'see {log}')}"
    )


def _states(jobs: Any) -> dict[str, str] | None:
    """Return the state of each job that Slurm still knows; None where it does not answer."""
    try:
        return _ask(*sorted({job.job_id.split("_")[0] for job in jobs}))
    except subprocess.CalledProcessError:
        return None


def _ask(*names: str) -> dict[str, str]:
    command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(names)}", "--format=%i %T"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode and "Invalid job id" not in answer.stderr:
        raise subprocess.CalledProcessError(answer.returncode, command, answer.stdout, answer.stderr)
    return dict(line.split() for line in answer.stdout.splitlines())


def _cancel(jobs: Any) -> None:
    """Cancel jobs, and wait until they have saved."""
    names = [job.job_id for job in jobs]
    print(f"tlab: cancelling {counted(names, 'job')} of Slurm, their work is saved", file=sys.stderr, flush=True)
    subprocess.run(["scancel", *names], check=False)
    deadline = time.monotonic() + LEAVING
    while time.monotonic() < deadline:
        states = _states(jobs)  # None where Slurm does not answer, which says nothing of the jobs
        if states is not None and not any(states.get(name, "CANCELLED") not in OVER for name in names):
            return
        time.sleep(1)
