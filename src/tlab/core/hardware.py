"""CPU cores, memory and GPUs that this process may use, torch's threads, and glibc's memory."""

import ctypes
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_* of glibc's malloc.h
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
# Cores of each task, set by tlab's launchers, and by Slurm, which may not bind processes to cores.
SHARES = ("TLAB_CORES", "SLURM_CPUS_PER_TASK")
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
MEMORY, SHARED_MEMORY = Path("/proc/meminfo"), Path("/dev/shm")
SPINS = "3000"  # fewer slow down small networks alone, more slow down two commands at once (benchmarks/spin.py)


def cpu_count() -> int:
    """Return the number of CPU cores that this process may use: bound to it, and in its container's quota.

    On macOS and Windows, which have neither, all of the machine. A launcher that runs several jobs on one machine
    sets `TLAB_CORES` for each.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bound = min([bound, *(max(1, math.ceil(quota)) for quota in _cpu_quotas())])
    given = (os.environ.get(name, "") for name in SHARES)
    return next((min(int(number), bound) for number in given if number.isdigit() and int(number) > 0), bound)


def _cpu_quotas() -> Iterator[float]:
    """Yield the cores that each control group around this process grants (`docker --cpus=2`)."""
    for _, folder in _cgroups("cpu"):
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
            yield int(quota) / int(period)  # no limit is "max", which is no number
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
            if int(quota) > 0:  # no limit is -1
                yield int(quota) / int(period)


def free_memory() -> int:
    """Return the memory in bytes that this process may still take; 4 GiB where the system does not say."""
    try:
        with MEMORY.open(encoding="ascii") as lines:
            free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        free = 4 * 2**30
    return min([free, *(max(0, left) for left in _memory_left())])


def _memory_left() -> Iterator[int]:
    """Yield what each control group around this process leaves of its memory limit, in bytes.

    Files in memory that nobody has read lately count as free, as in `MemAvailable`.
    """
    for v2, folder in _cgroups("memory"):
        limit, used = ("memory.max", "memory.current") if v2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        with suppress(OSError, ValueError):
            most, taken = (int((folder / name).read_text(encoding="ascii")) for name in (limit, used))
            with (folder / "memory.stat").open(encoding="ascii") as lines:
                counts = dict(line.split() for line in lines)
            yield most - taken + int(counts.get("inactive_file" if v2 else "total_inactive_file", 0))


def _cgroups(controller: str) -> Iterator[tuple[bool, Path]]:
    """Yield the folders of this process's control groups and those around them: whether of version 2, and path.

    A container may see its own group as the root, though `/proc` names it by its path outside.
    """
    with suppress(OSError):
        for line in OWN_CGROUP.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = CGROUPS / controllers if controllers else CGROUPS
            own = Path(path.removeprefix("/"))
            for folder in (own, *own.parents):
                yield not controllers, root / folder


def free_shared_memory() -> int | None:
    """Return this process's share, in bytes, of what is free in the shared memory; None where nothing limits it.

    Docker's containers have 64 MB of it unless `--shm-size` gives more.
    """
    try:
        return shutil.disk_usage(SHARED_MEMORY).free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    except OSError:
        return None


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


def stay_within_cores() -> None:
    """Let torch compute on no more threads than this process has cores: it knows of no container's quota."""
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), cpus_per_process()))


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


def prepare_training() -> None:
    """Fit torch's threads and memory to this process's share of the machine."""
    stay_within_cores()
    keep_freed_memory()


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


def return_freed_memory() -> None:
    """Let glibc return all freed memory to the system, much of which it keeps otherwise: when a process idles."""
    if os.name == "posix" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
