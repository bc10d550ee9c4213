"""CPU cores and GPUs of this process, torch's threads, and glibc's memory."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_* of glibc's malloc.h
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
# Cores of each task, set by tlab's launchers, and by Slurm, which may not bind processes to cores.
SHARES = ("TLAB_CORES", "SLURM_CPUS_PER_TASK")
SPINS = "3000"  # fewer slow down small networks alone, more slow down two commands at once (benchmarks/spin.py)


def cpu_count() -> int:
    """Return the number of CPU cores available to this process (macOS and Windows: all of the machine).

    A launcher that runs several jobs on one machine sets `TLAB_CORES` for each.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = (os.environ.get(name, "") for name in SHARES)
    return next((min(int(number), bound) for number in given if number.isdigit() and int(number) > 0), bound)


def cpus_per_process() -> int:
    """Return this process's share of `cpu_count`: a run may have several processes on this machine."""
    return max(1, cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def limit_spinning() -> None:
    """Let idle OpenMP threads sleep soon, which leaves their cores to other commands on the machine.

    Threads of GNU OpenMP poll 300,000 times for work before they sleep: of two commands at once on two cores each
    trains at a third of its speed alone, or less; with this, at half of it (`python benchmarks/spin.py`). Must be
    called before torch is loaded; child processes inherit it. What the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def limit_threads() -> None:
    """Limit torch's threads to this process's share of the cores, and to `OMP_NUM_THREADS`."""
    limit_spinning()  # a cluster may have started this process with an environment of its own
    import torch

    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    threads = min(cpus_per_process(), int(wanted)) if wanted.isdigit() else cpus_per_process()
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # else Lightning sets its own for several processes


@contextmanager
def single_threaded() -> Iterator[None]:
    """Let torch and OpenCV compute on one thread in the block, as in a worker process.

    Single images gain nothing from more, and waiting for a second thread on a busy machine costs much. The setting
    of `thread_pool` is undone too: parts of torch have one number for all threads.
    """
    import cv2
    import torch

    threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv2_threads)


def thread_pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool whose threads each run torch single-threaded; to be used inside `single_threaded`."""
    import torch

    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))


def gpus() -> list[str]:
    """Return the GPUs visible to this process, as CUDA_VISIBLE_DEVICES names them, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(i) for i, _ in enumerate(line for line in listed.stdout.splitlines() if line.startswith("GPU "))]


def keep_freed_memory() -> None:
    """Let glibc keep up to 2 GB of freed memory for the next training step instead of returning it at once.

    By default glibc returns tensors of more than 128 KB to the system, which then clears every page anew. With
    this, ResNet-18's training step at 224 px was 1.14 times as fast (`benchmarks/allocator.py`; 0.91 to 1.33 on a
    busy machine). Does nothing with other C libraries, or where the environment has its own settings.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None or any(name in os.environ for name in SETTINGS):
        return
    mallopt(MMAP_THRESHOLD, 2**25)  # the largest value allowed
    mallopt(TRIM_THRESHOLD, 2**31 - 1)
