"""Where augmented images are made: on the CPU, or on the GPU that trains on them."""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data._utils.pin_memory import pin_memory

from tlab.cache import recall, remember
from tlab.cores import share_of_cores
from tlab.data.dataset import ImageDataset
from tlab.data.drawn import images
from tlab.data.loader import Loader
from tlab.data.order import EpochSampler, Key
from tlab.data.transfer import on_device
from tlab.errors import UserError
from tlab.processes import from_first_process

log = logging.getLogger(__name__)

MEMORY = "augment.json"
IMAGES = 64  # that are timed, at most
ROUNDS = 3  # in which both ways alternate, after a first one that warms up
BUDGET = 1.0  # seconds after which no further round is timed
CLEAR = 1.1  # the device must be so many times faster; a smaller difference may be another process's doing
COMPARED = 8  # images that are also made on the CPU, to see that the device makes the same
SAME = 1.0  # grey levels between them in the mean

SHARED = Path("/dev/shm")  # where Linux keeps it

AUTO, CPU, DEVICE = MODES = ("auto", "cpu", "device")


class Placement:
    """Where the images of each phase of a run are made.

    Args:
        mode: `auto`, `cpu` or `device` (see `choose`).

    Attributes:
        measured: phase -> `cpu` or `device`, where that was measured; a run that goes on takes it up again.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.measured: dict[str, str] = {}

    def place(self, loader: Loader) -> None:
        """Choose for the phase that a training loader is in, unless its batches come from stored features.

        Of several processes the first one chooses for all.

        Args:
            loader: of training images.
        """
        sampler, device = loader.sampler, loader.device or torch.device("cpu")
        assert isinstance(sampler, EpochSampler)
        if loader.stored is not None:
            return
        phase, measures = sampler.phase, self.mode == AUTO and device.type == "cuda"
        if measures and phase in self.measured:
            where = self.measured[phase]
        else:
            queued = loader.num_workers * (loader.prefetch_factor or 0) * int(loader.batch_size or 1)
            keys = sampler.keys(sampler.epoch)
            where, why = from_first_process(lambda: choose(self.mode, loader.images, phase, keys, device, queued))
            if why:
                log.info("phase %s: images are augmented on the %s (%s)", phase, where, why)
        if measures:
            self.measured[phase] = where
        loader.draws = where == DEVICE


def choose(
    mode: str, dataset: ImageDataset, phase: str, keys: Sequence[Key], device: torch.device, queued: int = 0
) -> tuple[str, str]:
    """Return where the images of a phase are made, `cpu` or `device`, and why, in words; "" where that is plain.

    Args:
        mode: `cpu` or `device` asks for one; `auto` takes the faster one where the device is a GPU with CUDA.
        dataset: of training images.
        phase: of the run.
        keys: of images to try.
        device: that trains.
        queued: images that worker processes hold ready.
    """
    chain = dataset.chains.get(phase, dataset.chains[""])
    if mode == CPU or not chain.steps or (mode == AUTO and device.type != "cuda"):
        return CPU, ""
    if not dataset.can_draw(phase):
        foreign = ", ".join(chain.foreign)
        return CPU, "" if mode == AUTO else f"{foreign}: only tlab's own steps can be carried out elsewhere"
    if device.type not in ("cuda", "cpu"):
        return CPU, f"{device.type} cannot make them"
    return faster(dataset, phase, keys, device, queued) if mode == AUTO else (DEVICE, "")


def faster(
    dataset: ImageDataset, phase: str, keys: Sequence[Key], device: torch.device, queued: int
) -> tuple[str, str]:
    """Return where the images of a phase are made sooner, `cpu` or `device`, and why, in words.

    A few images are made both ways in turn, from files or store to the device: on the CPU as its cores do it in
    threads, or drawn there and made on the device, whose time counts in full, as if nothing else could run
    meanwhile. The answer is remembered in the cache directory for this GPU, number of cores, torch version, images
    and steps. The device is only chosen where it clearly is faster, its pixels are those of the CPU, and the
    sources that workers hold ready, which are larger than images, fit into their shared memory.

    Args:
        dataset: of training images.
        phase: of the run; its images can be drawn (`ImageDataset.can_draw`).
        keys: of the images to try; the first ones are used.
        device: a CUDA device.
        queued: images that worker processes hold ready.
    """
    keys = [key._replace(phase=phase) for key in keys[:IMAGES]]
    name = _name(dataset, phase, len(keys), device)
    speeds = recall(MEMORY).get(name)
    if speeds is None:
        try:
            speeds = measure(dataset, keys, device)
        except (RuntimeError, UserError) as error:  # it has no kernel or no memory for this, or a file is gone
            return CPU, f"the GPU could not be tried ({str(error).splitlines()[0]})"
        remember(MEMORY, name, speeds)
    if speeds["apart"] > SAME:
        return CPU, f"the GPU's images are {speeds['apart']:.1f} grey levels apart from the CPU's"
    if (need := queued * speeds["bytes"]) > free_shared_memory() / 2:
        return CPU, f"workers would hold {need / 1e9:.1f} GB in {SHARED}, more than half of what is free"
    best = DEVICE if speeds[DEVICE] >= CLEAR * speeds[CPU] else CPU
    return best, f"images per second measured here: cpu {speeds[CPU]:.0f}, device {speeds[DEVICE]:.0f}"


def measure(dataset: ImageDataset, keys: Sequence[Key], device: torch.device) -> dict[str, float]:
    """Return images per second of both ways, `cpu` and `device`, and how many grey levels they are `apart`.

    Also `bytes`, which a drawn image takes: pixels or file.

    Args:
        dataset: of training images.
        keys: of the images; what they give before noise is compared.
        device: where they are to be.

    Raises:
        UserError: a file cannot be read any more.
        RuntimeError: the device has no memory or no kernel for this.
    """
    drawn_keys = [key._replace(drawn=True) for key in keys]
    ways: dict[str, Callable[[], Any]] = {
        CPU: lambda: on_device(_pinned(dataset, keys, device), device).image,
        DEVICE: lambda: images(on_device(_pinned(dataset, drawn_keys, device), device)),
    }
    fastest = dict.fromkeys(ways, 0.0)
    began = time.perf_counter()
    for round_ in range(1 + ROUNDS):
        for way, make in ways.items():
            start = time.perf_counter()
            make()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if round_:
                fastest[way] = max(fastest[way], len(keys) / (time.perf_counter() - start))
        if round_ and time.perf_counter() - began > BUDGET:
            break
    few = _pinned(dataset, drawn_keys[:COMPARED], device)
    size = (few.pixels.numel() + sum(map(len, few.jpegs))) / len(few.sides)
    few = few._replace(noise=(None,) * len(few.noise))
    apart = (images(on_device(few, device)).cpu().int() - images(few).int()).abs().double().mean()
    speeds = {way: round(speed, 1) for way, speed in fastest.items()}
    return {**speeds, "apart": round(float(apart), 3), "bytes": round(size)}


def free_shared_memory() -> float:
    """Return the free bytes of the memory that processes share; containers often have little of it."""
    return shutil.disk_usage(SHARED).free if SHARED.exists() else float("inf")


def _pinned(dataset: ImageDataset, keys: Sequence[Key], device: torch.device) -> Any:
    batch = dataset.__getitems__(keys)
    if isinstance(batch, UserError):
        raise batch
    return pin_memory(batch) if device.type == "cuda" else batch


def _name(dataset: ImageDataset, phase: str, count: int, device: torch.device) -> str:
    """Return all that the speeds depend on."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    chain = dataset.chains.get(phase, dataset.chains[""])
    source = "store" if dataset.store else "jpegs" if dataset.leaves_decoding else "files"
    sides = [*map(str, (share_of_cores(), torch.__version__, dataset.image_size, count, source))]
    return "|".join([gpu, *sides, *(repr(step) for step in chain.steps.values())])
