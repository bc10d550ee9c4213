"""Image files as the models want them, checked and decoded in one go, batch by batch."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, get_worker_info

from tlab.core.error_messages import is_mistake
from tlab.core.hardware import cpus_per_process, single_threaded, thread_pool
from tlab.data.loader import START_METHOD, choose_workers, fit_shared_memory, ignore_signals, whole_batches
from tlab.data.sources.verify import FileCheck
from tlab.predictions.file_list import FileList
from tlab.runs.trained_model import View, read_image


class Images(NamedTuple):
    """Some successive files.

    Attributes:
        start: Number of the first one.
        checks: What is known of each.
        readable: Positions, from `start`, of those that can be read.
        views: These in each of the models' views: uint8 `B 3 S S`.
    """

    start: int
    checks: list[FileCheck]
    readable: list[int]
    views: list[Tensor]


class ImageReader(Dataset[Images]):
    """Reads image files in every view that the models want; each is looked at for damage first.

    Nothing is kept of a file that has been read: what a list of a million files takes is their names.

    Args:
        files: The files.
        views: How the models want them.
        max_megapixels: Largest readable image.
    """

    def __init__(self, files: FileList, views: Sequence[View], max_megapixels: float) -> None:
        self.files, self.views, self.max_megapixels = files, views, max_megapixels

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, numbers: Sequence[int]) -> Images | Exception:
        """Return a batch, or the mistake as a value: raised in a worker, it would arrive wrapped in a traceback."""
        in_worker = get_worker_info() is not None
        try:
            with single_threaded():
                if in_worker or len(numbers) == 1:
                    read = list(map(self._read, numbers))
                else:
                    with thread_pool(cpus_per_process()) as threads:
                        read = list(threads.map(self._read, numbers))
            readable = [place for place, (_, squares) in enumerate(read) if squares]
            views = [torch.stack(view) for view in zip(*(read[place][1] for place in readable), strict=True)]
            for view in views if in_worker else ():
                view.share_memory_()  # here, since torch's queue would drop the batch where there is too little
        except Exception as error:
            if is_mistake(error):
                return error
            raise
        return Images(numbers[0], [check for check, _ in read], readable, views)

    def _read(self, number: int) -> tuple[FileCheck, list[Tensor]]:
        """Return what is known of a file, and it in each view: uint8 `3 S S`; none if it cannot be read."""
        return read_image(Path(self.files.path(number)), self.views, self.max_megapixels)


def read_images(reader: ImageReader, start: int, batch_size: int, num_workers: int | None) -> Iterator[Images]:
    """Yield the files from number `start` on in batches.

    Args:
        reader: What reads them.
        start: Number of the first file.
        batch_size: Number of files in a batch B.
        num_workers: Number of processes that decode; None chooses.
    """
    count = len(reader) - start
    on_cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    workers = choose_workers(count, cpus_per_process(), on_cpu) if num_workers is None else num_workers
    batch_bytes = min(batch_size, count) * 3 * sum(view.square.image_size**2 for view in reader.views)
    workers = fit_shared_memory(workers, batch_bytes, num_workers is None)
    batches = DataLoader(
        reader,
        batch_sampler=BatchSampler(range(start, len(reader)), batch_size, drop_last=False),
        num_workers=workers,
        collate_fn=whole_batches,
        multiprocessing_context=START_METHOD if workers else None,
        worker_init_fn=ignore_signals,
        generator=torch.Generator(),  # else torch draws a seed from the global generator
    )
    for batch in batches:
        if isinstance(batch, Exception):
            raise batch
        yield batch
