"""Decoded images on disk: each file is decoded once for all epochs, and for all runs that decode it alike."""

import logging
import os
import secrets
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path

import cv2
import numpy as np
import PIL
import torch
import torchvision
from torch import Tensor

from tlab.core.eviction import evict, free_bytes, open_locked, size_of, touch
from tlab.core.files import cache_dir, identity_if_there
from tlab.core.hardware import cpu_count, free_memory, single_threaded, thread_pool
from tlab.core.processes import from_first_process
from tlab.core.text import counted, noun
from tlab.data import progress_bar

log = logging.getLogger(__name__)

# The modules of `tlab.data` that turn a file into the pixels of a store
DECODING = (
    *("decode", "decode_options", "file_kinds", "jpeg_damage", "image_batches", "image_cache"),
    "augment/evaluation",
)
EPOCHS = 3  # for so many epochs or fewer nothing is stored
WORTH = 2.0  # seconds of decoding saved, below which nothing is stored
SAMPLE = 16  # images decoded to estimate time and size
CHUNK = 32  # images decoded ahead of writing; bounds the memory
DISK_SHARE = 0.25  # of the free disk, for all image stores together
MEMORY_SHARE = 0.5  # of the free memory; a larger store would be read from the disk in every epoch

Original = Callable[[int], Tensor]


class ImageStore:
    """Images in one flat file, with random access for any number of processes.

    The file is read, not mapped: mapped pages would count as this process's memory. An open store outlives its
    removal.

    Args:
        folder: Folder with `pixels` (the images one after the other, H W 3, uint8) and `shapes.npy` (N 2, int32).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open()

    def __len__(self) -> int:
        return len(self._shapes)

    def read(self, index: int) -> Tensor:
        """Return image `index`: 3 H W, uint8, laid out H W C."""
        height, width = (int(side) for side in self._shapes[index])
        x_HWC = np.empty((height, width, 3), np.uint8)
        self._read_into(x_HWC.reshape(-1).data, int(self._offsets[index]))
        return torch.from_numpy(x_HWC).permute(2, 0, 1)

    def _open(self) -> None:
        self._shapes = np.load(self.folder / "shapes.npy")
        self._offsets = np.concatenate([[0], np.cumsum(3 * self._shapes.prod(1, dtype=np.int64))])
        self._file = (self.folder / "pixels").open("rb", buffering=0)
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()

    def _read_into(self, buffer: memoryview, offset: int) -> None:
        if hasattr(os, "preadv"):
            while len(buffer):
                count = os.preadv(self._file.fileno(), [buffer], offset)
                if not count:
                    raise OSError(f"{self.folder} is cut short: remove it, and the images are decoded anew")
                buffer, offset = buffer[count:], offset + count
            return
        with self._lock:  # Windows: all threads share the file position
            self._file.seek(offset)
            self._file.readinto(buffer)

    def __getstate__(self) -> Path:
        return self.folder

    def __setstate__(self, folder: Path) -> None:
        self.folder = folder
        self._open()


def choose_store(
    mode: str, paths: Sequence[str], decoding: str, original: Original, epochs: int
) -> ImageStore | None:
    """Return the store of these images, written now if missing; None if decoding in every epoch is better.

    All processes of a run call this together, and the first one decides whether it pays.

    Args:
        mode: `on` stores whatever fits on the disk, `auto` what also fits into memory and pays, `off` nothing.
        paths: Paths of the image files.
        decoding: Description of how `original` decodes a file, for the store's key.
        original: Function from index to image, 3 H W, uint8.
        epochs: Number of epochs that read the images.
    """
    if mode == "off" or not paths:
        return None
    folder = cache_dir() / "images"
    entry = folder / _key(paths, decoding)
    reason = from_first_process(_reason_to_decode, mode, entry, original, len(paths), epochs)
    if reason:
        log.log(
            logging.INFO if "GB" in reason else logging.DEBUG,
            "data.store=%s: images are decoded anew in every epoch (%s).",
            mode,
            reason,
        )
        return None
    if not entry.exists():
        try:
            with open_locked(entry):  # another process may be writing; this one then waits
                if not entry.exists():
                    _write(entry, original, len(paths))
        except OSError as error:
            if entry.exists():  # without locks another process may have been faster
                return _opened(entry)
            log.warning(
                "Decoded images cannot be kept in %s (%s), so they are decoded anew in every epoch; make room "
                "there, name another folder with TLAB_CACHE, or give data.store=off.",
                *(folder, error.strerror or error),
            )
            return None
    return _opened(entry)


def _opened(entry: Path) -> ImageStore | None:
    touch(entry)
    try:
        return ImageStore(entry)
    except OSError:  # another process has just evicted it
        return None


def _key(paths: Sequence[str], decoding: str) -> str:
    """Return a digest of everything that the pixels depend on."""
    versions = [digest_of_decoding(), *(module.__version__ for module in (PIL, cv2, torch, torchvision)), decoding]
    digest = blake2b("\n".join(versions).encode(), digest_size=16)
    for path in paths:
        digest.update(f"\n{os.fsencode(path)!r} {identity_if_there(path)}".encode())
    return digest.hexdigest()


@cache
def digest_of_decoding() -> str:
    """Return a digest of tlab's code that turns files into pixels."""
    files = (Path(__file__).parent / f"{module}.py" for module in DECODING)
    return blake2b(b"".join(file.read_bytes() for file in files), digest_size=16).hexdigest()


def _reason_to_decode(mode: str, entry: Path, original: Original, images: int, epochs: int) -> str:
    """Return why nothing should be stored, or "" if it should or is. May remove old stores to make room."""
    try:
        return "" if entry.exists() else _reason_against(mode, entry.parent, original, images, epochs)
    except OSError as error:
        return f"{entry.parent} cannot be read: {error.strerror}"


def _reason_against(mode: str, folder: Path, original: Original, images: int, epochs: int) -> str:
    if mode == "auto" and epochs <= EPOCHS:
        return f"{counted(epochs, 'epoch')} {noun(epochs, 'reads', 'read')} them"
    seconds, size = _sample(original, images)
    if mode == "auto" and seconds * (epochs - 1) < WORTH:
        return f"decoding them all takes {seconds:.1f} s"
    if mode == "auto" and size > MEMORY_SHARE * free_memory():
        return f"decoded they take {size / 1e9:.1f} GB, more than half of the free memory"
    held = size_of(folder) if folder.exists() else 0
    limit = int(DISK_SHARE * (free_bytes(folder) + held))
    if size > limit:
        return f"decoded they take {size / 1e9:.1f} GB, more than a quarter of the free disk"
    evict(folder, limit - size)
    return ""


def _sample(original: Original, images: int) -> tuple[float, int]:
    """Estimate the seconds that one core takes to decode all images, and their size in bytes."""
    chosen = range(0, images, -(-images // SAMPLE))
    start = time.perf_counter()
    sizes = [original(index).numel() for index in chosen]
    return (time.perf_counter() - start) * images / len(chosen), sum(sizes) * images // len(chosen)


def _write(entry: Path, original: Original, images: int) -> None:
    """Decode all images into a temporary folder, and rename it to `entry`."""
    start = time.monotonic()
    temporary = entry.with_name(f".{entry.name}.{secrets.token_hex(4)}")
    try:
        temporary.mkdir()
        shapes = np.empty((images, 2), np.int32)
        with (temporary / "pixels").open("wb") as file:
            for index, x in enumerate(progress_bar.shown(_all(original, images), "Decoding images", images)):
                shapes[index] = x.shape[-2:]
                file.write(np.ascontiguousarray(x.permute(1, 2, 0).numpy()).data)
            file.flush()
            os.fsync(file.fileno())
        np.save(temporary / "shapes.npy", shapes)
        temporary.rename(entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    seconds = time.monotonic() - start
    if seconds > progress_bar.SHOWN_AFTER:
        log.info("Decoded %s in %.1f s into %s.", counted(images, "image"), seconds, entry)


def _all(original: Original, images: int) -> Iterator[Tensor]:
    """Yield all images in order, decoded by a thread per core, `CHUNK` at a time."""
    with single_threaded(), thread_pool(cpu_count()) as pool:  # Pillow and torch release the GIL
        for start in range(0, images, CHUNK):
            yield from pool.map(original, range(start, min(start + CHUNK, images)))
