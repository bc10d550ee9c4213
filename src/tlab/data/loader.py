"""Data loaders over an `ImageDataset`, and the number of their worker processes."""

import signal
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from tlab.core.errors import UserError
from tlab.core.hardware import cpus_per_process
from tlab.core.signals import STOPPING
from tlab.data.dataset import Batch, ImageDataset, whole_batches
from tlab.data.feature_batches import FeatureBatches
from tlab.data.sampler import EpochSampler, Key

POOLED_ROWS = 1024  # batch size of pooled features in evaluation, where a step costs more than its computation
FEW_IMAGES = 200  # below this, starting worker processes costs more than it saves


class Loader(DataLoader[Batch]):
    """A data loader that can resume inside an epoch, and raises a `UserError` without its worker's traceback.

    Attributes:
        stored: Cached features; if set, batches come from them and no image is read.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._taken = {"epoch": -1, "batches": 0}
        self._resumed: dict[str, int] | None = None
        self.stored: FeatureBatches | None = None

    @property
    def images(self) -> ImageDataset:
        """The dataset, even if the batches come from `stored`."""
        assert isinstance(self.dataset, ImageDataset)
        return self.dataset

    @property
    def has_workers(self) -> bool:
        """Whether there are worker processes, which have a copy of the dataset."""
        return self._iterator is not None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self._taken = self._start()
        batches = self._from_store() if self.stored is not None else super().__iter__()
        for batch in batches:
            self._taken["batches"] += 1
            if isinstance(batch, UserError):
                if isinstance(batches, _MultiProcessingDataLoaderIter):
                    # Otherwise the garbage collector waits five seconds for each worker
                    batches._shutdown_workers()
                    self._iterator = None
                raise UserError(str(batch))
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its batches taken (Lightning saves this in checkpoints)."""
        return dict(self._taken)

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Resume inside that epoch: its next iteration begins after those batches, without decoding them."""
        self._resumed = dict(state_dict)

    def start_anew(self) -> None:
        """Begin the next iteration with the first batch, even after `load_state_dict`."""
        self._resumed = None

    def _from_store(self) -> Iterator[Batch]:
        assert self.stored is not None
        batches: Iterable[list[Key]] = self.batch_sampler  # type: ignore[assignment]
        if self.stored.is_pooled and not isinstance(self.sampler, EpochSampler):
            keys = list(self.sampler)
            batches = (keys[start : start + POOLED_ROWS] for start in range(0, len(keys), POOLED_ROWS))
        for keys in batches:
            batch = self.stored.batch(keys)
            if self.pin_memory:  # as torch does with a batch of images
                image, label, index, after = batch
                batch = Batch(image.pin_memory(), label.pin_memory(), index.pin_memory(), after)
            yield batch

    def _start(self) -> dict[str, int]:
        """Return the epoch that begins, and the number of its batches that a resumed run has already taken."""
        if not isinstance(self.sampler, EpochSampler):
            return {"epoch": -1, "batches": 0}
        start, self._resumed = self._resumed, None
        if start is None or start["epoch"] != self.sampler.epoch:
            start = {"epoch": self.sampler.epoch, "batches": 0}
        self.sampler.skip = start["batches"] * int(self.batch_size or 1)
        return start


def make_loader(
    dataset: ImageDataset, keys: Any, batch_size: int, num_workers: int | None = None, persistent: bool = False
) -> Loader:
    """Return a loader of the images that `keys` address.

    Args:
        dataset: Dataset that makes the batches.
        keys: A sampler or a list of `sampler.Key`.
        batch_size: Batch size B; the last batch may be smaller.
        num_workers: Number of decoding processes; None chooses by `choose_workers`.
        persistent: Whether to keep the processes from one epoch to the next.
    """
    # torch's worker processes compute on one thread each
    on_cpu = dataset.is_threadsafe and not (torch.cuda.is_available() or torch.backends.mps.is_available())
    workers = choose_workers(len(keys), cpus_per_process(), on_cpu) if num_workers is None else num_workers
    return Loader(
        dataset,
        batch_size=batch_size,
        sampler=keys,
        collate_fn=whole_batches,
        num_workers=workers,
        persistent_workers=persistent and workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=ignore_signals,
        generator=torch.Generator(),  # else torch draws a seed from the global generator in every epoch
    )


def ignore_signals(worker: int) -> None:
    """Let a worker process ignore the signals that a terminal or Slurm sends to all processes of a run.

    The run still needs it to save its state, and ends it through its queue.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def choose_workers(images: int, cores: int, on_cpu: bool = False) -> int:
    """Return the number of worker processes for a split.

    Zero for few images, and if the network runs on the CPU: the dataset then makes the images of a batch on all
    cores between two steps, while worker processes would take cores from the network, whose threads wait for each
    other at every layer. Otherwise one per core but one, at most 8.

    Args:
        images: Number of images of the split.
        cores: Number of cores of this process.
        on_cpu: Whether the network runs on the CPU and the dataset may use threads.
    """
    return 0 if images < FEW_IMAGES or on_cpu else max(0, min(cores - 1, 8))
