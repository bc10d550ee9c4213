"""Batches on their way to the GPU: the next one is copied while a step computes."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from tlab.errors import UserError

Waiting = Callable[[], Any]  # returns the batch as soon as it may be used


def one_ahead(batches: Iterable[Any], begin: Callable[[Any], Waiting]) -> Iterator[Any]:
    """Yield what `begin` makes of each batch, which has begun when the batch before is yielded.

    A mistake among the batches (a `UserError`, as a value) is yielded in its turn, after all batches before it, and
    nothing follows.

    Args:
        batches: in order.
        begin: starts the way of a batch, and returns what waits for its end.
    """
    waiting: Waiting | None = None
    for batch in batches:
        if isinstance(batch, UserError):
            if waiting is not None:
                yield waiting()
            yield batch
            return
        following = begin(batch)
        if waiting is not None:
            yield waiting()
        waiting = following
    if waiting is not None:
        yield waiting()


class SideStream:
    """Copies batches to a GPU on a stream of its own, so that the copy and the step before it overlap.

    Args:
        device: a CUDA device.
        finish: what is still to be done to a batch there, on the same stream.
    """

    def __init__(self, device: torch.device, finish: Callable[[Any], Any]) -> None:
        self.device, self.finish = device, finish
        self.stream = torch.cuda.Stream(device)

    def __call__(self, batch: Any) -> Waiting:
        """Begin to copy a named tuple, whose tensors should lie in pinned memory.

        Returns:
            What lets the stream that computes wait for the copy (the CPU does not), and returns the batch there.
        """
        with torch.cuda.stream(self.stream):
            there = self.finish(on_device(batch, self.device))
            copied = self.stream.record_event()

        def ready() -> Any:
            computing = torch.cuda.current_stream(self.device)
            computing.wait_event(copied)
            for value in there:
                if isinstance(value, Tensor):
                    value.record_stream(computing)  # else its memory may be given away before the step is over
            return there

        return ready


def on_device(batch: Any, device: torch.device) -> Any:
    """Return a named tuple with its tensors on `device`."""
    moved = (value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for value in batch)
    return type(batch)(*moved)
