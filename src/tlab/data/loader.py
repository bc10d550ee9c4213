"""Data loaders, and the number of their worker processes."""

import functools
import itertools
import logging
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.pin_memory import pin_memory
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from tlab.core.error_messages import is_mistake
from tlab.core.errors import UserError
from tlab.core.hardware import cpus_per_process, free_shared_memory
from tlab.core.processes import first_process
from tlab.core.signals import STOPPING
from tlab.core.text import counted
from tlab.data.batch import Batch, BatchSource
from tlab.data.feature_batches import FeatureBatches
from tlab.data.image_batches import ImageBatches
from tlab.data.sampler import EpochSampler, SampleKey

log = logging.getLogger(__name__)

PREFETCHED = 2  # batches of each worker process that are ready ahead; torch's own number
# Named, since Python's default changes. A fork starts at once and shares the index; elsewhere it may crash.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
POOLED_ROWS = 1024  # batch size of pooled features in evaluation, where a step costs more than its computation
FEW_IMAGES = 200  # below this, starting worker processes costs more than it saves


Made = tuple[Batch, dict[str, str]]  # and the files that its process has skipped so far, with the reason


class Loader(DataLoader[Batch]):
    """A data loader whose batches come from images or cached features, and that can resume inside an epoch.

    Attributes:
        source: Where the batches come from.
    """

    def __init__(self, images: ImageBatches, **options: Any) -> None:
        super().__init__(_WorkerImages(images), collate_fn=whole_batches, **options)  # type: ignore[arg-type]
        self.source: BatchSource = images
        self._taken = {"epoch": -1, "batches": 0}
        self._resumed: dict[str, int] | None = None

    @property
    def images(self) -> ImageBatches:
        """The images, even if the batches come from features."""
        assert isinstance(self.dataset, _WorkerImages)
        return self.dataset.images

    @property
    def has_workers(self) -> bool:
        """Whether there are worker processes, which have a copy of the images."""
        return self._iterator is not None

    def use(self, images: ImageBatches, features: FeatureBatches | None = None) -> None:
        """Take the batches of the coming epochs from `features`, or else from `images`."""
        self.source = images if features is None else features
        if images is not self.images:
            self._end_workers(self._iterator)
            self.dataset.images = images  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self._taken = self._start()
        in_workers = self.num_workers > 0 and self.source is self.images
        batches: Iterator[Any] = super().__iter__() if in_workers else self._batches()
        count = 0
        try:
            for made in batches:
                if isinstance(made, Exception):
                    self._end_workers(batches)
                    raise made
                batch, skipped = made
                self.images.skipped.update(skipped)
                self._taken["batches"] += 1
                if len(batch.index):  # else no image of it can be read
                    yield batch
                    count += 1
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            if not in_workers or str(error).startswith("Caught "):  # what a worker that lives has met
                raise
            self._end_workers(batches)  # one was killed while it handed a batch over
            raise RuntimeError("DataLoader worker (pid unknown) exited unexpectedly") from error
        skipped = self.images.skipped
        if not count and skipped and all(sample.file in skipped for sample in self.images.samples):
            file, reason = next(iter(self.images.skipped.items()))
            raise UserError(
                f"no image of a split can be read any more, such as {file} ({reason}): look whether its folder is "
                "still there, and give the same command again"
            )

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its batches taken (Lightning saves this in checkpoints)."""
        return dict(self._taken)

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Resume inside that epoch: its next iteration begins after those batches, without decoding them."""
        self._resumed = dict(state_dict)

    def pass_over(self) -> None:
        """Count the batches of the sampler's epoch as taken, though none was made."""
        self._taken = {**self._start(), "batches": len(self)}

    def start_anew(self) -> None:
        """Begin the next iteration with the first batch, even after `load_state_dict`."""
        self._resumed = None

    def _batches(self) -> Iterator["Made"]:
        """Yield the batches that are made in this process."""
        batches: Iterable[list[SampleKey]] = self.batch_sampler  # type: ignore[assignment]
        pooled = isinstance(self.source, FeatureBatches) and self.source.is_pooled
        if pooled and not isinstance(self.sampler, EpochSampler):
            ordered = iter(self.sampler)
            batches = iter(lambda: list(itertools.islice(ordered, POOLED_ROWS)), [])
        for keys in batches:
            batch = self.source.batch(keys)
            yield (pin_memory(batch) if self.pin_memory else batch), {}  # the files are noted already

    def _end_workers(self, workers: Any) -> None:
        """End the worker processes of an iterator; the garbage collector would wait five seconds for each."""
        if isinstance(workers, _MultiProcessingDataLoaderIter):
            workers._shutdown_workers()
        self._iterator = None

    def _start(self) -> dict[str, int]:
        """Return the epoch that begins, and the number of its batches that a resumed run has already taken."""
        if not isinstance(self.sampler, EpochSampler):
            return {"epoch": -1, "batches": 0}
        start, self._resumed = self._resumed, None
        if start is None or start["epoch"] != self.sampler.epoch:
            start = {"epoch": self.sampler.epoch, "batches": 0}
        self.sampler.skip = start["batches"] * int(self.batch_size or 1)
        return start


class _WorkerImages(Dataset[Made]):
    """What worker processes read; the images in it can change, while torch fixes a loader's dataset."""

    def __init__(self, images: ImageBatches) -> None:
        self.images = images

    def __getitems__(self, keys: Sequence[SampleKey]) -> "Made | Exception":
        """Return a batch and the files that this process has skipped so far, or the mistake as a value.

        Raised it would arrive wrapped in the worker's traceback.

        The batch moves into shared memory here. Where there is too little of it, torch's queue would drop the batch
        without a word, and the run wait for it forever.
        """
        try:
            batch = self.images.batch(keys)
            for tensor in (batch.image, batch.label, batch.index):
                tensor.share_memory_()
        except Exception as error:
            if is_mistake(error):
                return error
            raise
        return batch, self.images.skipped  # all of this worker's, since a batch may never be taken


def whole_batches(batch: Any) -> Any:
    """Return the batch unchanged: the `collate_fn` of what is a whole batch already."""
    return batch


def make_loader(
    images: ImageBatches, keys: Any, batch_size: int, num_workers: int | None = None, persistent: bool = False
) -> Loader:
    """Return a loader of the images that `keys` address.

    Args:
        images: Images that the batches are made of.
        keys: A sampler or a list of `sampler.SampleKey`.
        batch_size: Batch size B; the last batch may be smaller.
        num_workers: Number of decoding processes; None chooses by `choose_workers` and `fit_shared_memory`.
        persistent: Whether to keep the processes from one epoch to the next.
    """
    # torch's worker processes compute on one thread each
    on_cpu = images.is_threadsafe and not (torch.cuda.is_available() or torch.backends.mps.is_available())
    workers = choose_workers(len(keys), cpus_per_process(), on_cpu) if num_workers is None else num_workers
    workers = fit_shared_memory(workers, min(batch_size, len(keys)) * 3 * images.image_size**2, num_workers is None)
    return Loader(
        images,
        batch_size=batch_size,
        sampler=keys,
        num_workers=workers,
        multiprocessing_context=START_METHOD if workers else None,
        persistent_workers=persistent and workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=ignore_signals,
        generator=torch.Generator(),  # else torch draws a seed from the global generator in every epoch
    )


def fit_shared_memory(workers: int, batch_bytes: int, may_choose: bool) -> int:
    """Return how many worker processes find room for their batches in the shared memory, if they may be fewer.

    Otherwise the number stays, with a warning. Each worker has `PREFETCHED` batches there, and this process one.

    Args:
        workers: Number of worker processes.
        batch_bytes: Size of a batch.
        may_choose: Whether the number was not given by the user.
    """
    free = free_shared_memory()
    if not workers or free is None or (PREFETCHED * workers + 1) * batch_bytes <= free:
        return workers
    fitting = max(0, (free // batch_bytes - 1) // PREFETCHED)
    room = f"the batches of {batch_bytes / 1e6:.3g} MB of {counted(workers, 'worker process', 'worker processes')}"
    more = f"the {free / 1e6:.3g} MB that are free in /dev/shm (docker run --shm-size=2g gives a container more)"
    if not may_choose:
        _remark(f"{room} may not fit into {more}; give data.num_workers={fitting}")
        return workers
    _remark(f"{room} do not fit into {more}, so {fitting} of them {'is' if fitting == 1 else 'are'} used")
    return fitting


@functools.cache
def _remark(text: str) -> None:
    """Log a remark once, though it holds for each loader of a run."""
    if first_process():
        log.warning(text)


def ignore_signals(worker: int) -> None:
    """Let a worker process ignore the signals that a terminal or Slurm sends to all processes of a run.

    The run still needs it to save its state, and ends it through its queue.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def choose_workers(images: int, cores: int, on_cpu: bool = False) -> int:
    """Return the number of worker processes for a split.

    Zero for few images, and if the network runs on the CPU: the images of a batch are then made on all
    cores between two steps, while worker processes would take cores from the network, whose threads wait for each
    other at every layer. Otherwise one per core but one, at most 8.

    Args:
        images: Number of images of the split.
        cores: Number of cores of this process.
        on_cpu: Whether the network runs on the CPU and the dataset may use threads.
    """
    return 0 if images < FEW_IMAGES or on_cpu else max(0, min(cores - 1, 8))
