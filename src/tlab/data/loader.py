"""Loaders over an `ImageDataset`: worker processes, and mistakes that arrive without their traceback."""

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

POOLED_ROWS = 1024  # pooled features at once in an evaluation; each step of its loop costs more than they do
FEW_IMAGES = 200  # below this, starting worker processes costs more than it gives


class Loader(DataLoader[Batch]):
    """A torch loader that raises the user's mistakes without a worker's traceback around them.

    Attributes:
        stored: where set, the batches come from here and no image is read.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._taken = {"epoch": -1, "batches": 0}
        self._resumed: dict[str, int] | None = None
        self.stored: FeatureBatches | None = None

    @property
    def images(self) -> ImageDataset:
        """The data set, also where the batches come from a store."""
        assert isinstance(self.dataset, ImageDataset)
        return self.dataset

    @property
    def has_workers(self) -> bool:
        """Whether there are processes that have a copy of the data set."""
        return self._iterator is not None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self._taken = self._start()
        batches = self._from_store() if self.stored is not None else super().__iter__()
        for batch in batches:
            self._taken["batches"] += 1
            if isinstance(batch, UserError):
                if isinstance(batches, _MultiProcessingDataLoaderIter):
                    # Left to the garbage collector, each worker is waited for in vain for five seconds
                    batches._shutdown_workers()
                    self._iterator = None
                raise UserError(str(batch))
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of which epoch were taken (Lightning keeps it in its checkpoints)."""
        return dict(self._taken)

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on inside that epoch: its next iteration begins after those batches, which are not even decoded."""
        self._resumed = dict(state_dict)

    def start_anew(self) -> None:
        """Begin the next iteration with the first batch, whatever was taken of its epoch."""
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
        """Return the epoch that begins and the batches of it that a resumed run has had."""
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
        dataset: makes the batches.
        keys: a sampler or a list of `sampler.Key`.
        batch_size: B, the last batch may be smaller.
        num_workers: processes that decode; None chooses by `choose_workers`.
        persistent: keep the processes from one epoch to the next.
    """
    # torch's worker processes run with one arithmetic thread each by themselves
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
        generator=torch.Generator(),  # else torch draws a seed from the global stream at every iteration
    )


def ignore_signals(worker: int) -> None:
    """Let a worker process outlast the signals that a terminal or Slurm sends to all processes of a run.

    The run saves where it stands with it, and ends it through its queue.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def choose_workers(images: int, cores: int, on_cpu: bool = False) -> int:
    """Return the number of worker processes for a split of so many images.

    None for few images, and none where the CPU computes too: between two steps the data set makes the images of a
    batch on all cores, while worker processes would take cores from the arithmetic, whose threads wait for each
    other at every layer. Otherwise one for each core but one, at most 8.

    Args:
        images: in the split.
        cores: for this process.
        on_cpu: whether the CPU computes and the data set may use threads.
    """
    return 0 if images < FEW_IMAGES or on_cpu else max(0, min(cores - 1, 8))
