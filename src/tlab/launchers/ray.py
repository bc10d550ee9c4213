"""The runs of a sweep as tasks of Ray (`hydra/launcher=ray`): on this machine, or on a cluster that is running.

Ray starts a task again elsewhere when its machine is lost or taken away; the run resumes from its last checkpoint.
A process runs one task after the other, so that torch is imported once.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from tlab.core.errors import UserError
from tlab.core.hardware import limit_threads
from tlab.launchers.remote_jobs import RemoteJob, lost
from tlab.sweeps.result import Failure

LEAVING = 60.0  # seconds that stopped runs are given to save
ANSWER = 10.0  # seconds that a cluster has to answer
ATTEMPTS = 3  # to start Ray, which gives itself 30 s, too little on a busy machine


def launch(jobs: Sequence[RemoteJob], options: dict[str, Any]) -> Iterator[tuple[int, Any]]:
    """Hand the jobs to Ray and yield each one's index in `jobs` and what it returned, as they end.

    Stopped before that, by Ctrl-C or SIGTERM, it stops those that are left, which save first.

    Args:
        jobs: Runs to start.
        options: Keys of conf/hydra/launcher/ray.yaml.

    Raises:
        UserError: There is no Ray here, the cluster does not answer, or no machine of it is large enough.
    """
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 leaves the runs nothing on a busy machine
    try:
        import ray
    except ImportError as error:
        raise UserError("hydra/launcher=ray needs Ray; give pip install ray") from error
    _connect(options["init"])
    _check_resources(options["remote"])
    task = ray.remote(**options["remote"])(run_job)
    # On a worker without a share of its own torch would take all cores of the machine
    threads = max(1, int(options["remote"].get("num_cpus") or 1))
    running = {task.remote(job, threads): number for number, job in enumerate(jobs)}
    try:
        while running:
            (reference,), _ = ray.wait(list(running))
            number = running.pop(reference)
            try:
                returned = ray.get(reference)
            except ray.exceptions.RayTaskError as error:  # tlab's own part of the task failed
                returned = Failure(str(error.cause).strip().splitlines()[0])
            except ray.exceptions.RayError as error:  # the process is gone, or its machine
                returned = lost(jobs[number], f"Ray lost the run: {str(error).strip().splitlines()[0]}")
            yield number, returned
    finally:
        for reference in running:
            ray.cancel(reference)  # as Ctrl-C in a run
        ray.wait(list(running), num_returns=len(running), timeout=LEAVING) if running else None
        ray.shutdown()


def run_job(job: RemoteJob, threads: int) -> Any:
    """Run a job in a process of Ray, with its share of the cores."""
    os.environ["TLAB_CORES"] = str(threads)
    limit_threads()
    return job.run()


def _connect(options: dict[str, Any]) -> None:
    """Start Ray here, or connect to a cluster."""
    import ray

    try:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _knock(options.get("address"))
                ray.init(**options)
                return
            except Exception as error:  # Ray raises no class of its own here
                if "timed out during startup" not in str(error) or attempt == ATTEMPTS:
                    raise
                ray.shutdown()
    except (ConnectionError, TimeoutError, socket.gaierror) as error:
        raise UserError(
            f"no Ray cluster answers at hydra.launcher.init.address={options.get('address')}; "
            f"start one with ray start --head, or give null to use this machine"
        ) from error
    except Exception as error:
        raise UserError(
            f"Ray does not start here ({str(error).strip().splitlines()[0]}); see the keys of "
            f"hydra.launcher.init, which are arguments of ray.init"
        ) from error


def _knock(address: str | None) -> None:
    """Raise an OSError where nobody listens, which Ray itself notices after minutes only."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=ANSWER).close()


def _check_resources(options: dict[str, Any]) -> None:
    """Refuse what no machine of the cluster has: Ray would wait for such a machine without end."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for key, name in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        most = max((machine.get(name, 0.0) for machine in machines), default=0.0)
        if (options.get(key) or 0) > most:
            raise UserError(
                f"hydra.launcher.remote.{key}={options[key]} is more than any machine of Ray's has ({most:g}); "
                f"give {most:g} or less"
            )
