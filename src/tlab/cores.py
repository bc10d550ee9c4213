"""How many cores this process may use, and which GPUs."""

import os
import shutil
import subprocess

AT_ONCE = "TLAB_RUNS_AT_ONCE"  # environment variable: how many runs of a sweep share this machine


def cores() -> int:
    """Return the number of CPU cores open to this process (macOS and Windows: all of the machine)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_of_cores() -> int:
    """Return how many of them are for this process: a run may have several here, and a sweep several runs."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) * int(os.environ.get(AT_ONCE, "1"))
    return max(1, cores() // processes)


def gpus() -> list[str]:
    """Return the GPUs open to this process, as CUDA_VISIBLE_DEVICES names them, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(i) for i, _ in enumerate(line for line in listed.stdout.splitlines() if line.startswith("GPU "))]
