"""Addressed randomness, and samplers whose order is a function of the seed and the epoch only."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import NamedTuple, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

KEYS_AT_ONCE = 1024  # keys made from the tensors of an epoch at once


def addressed_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2**64), a fixed function of the parts on every machine and in every process."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def addressed_generator(*parts: int | str) -> torch.Generator:
    """Return a CPU generator that starts at `addressed_seed(*parts)`."""
    return torch.Generator().manual_seed(addressed_seed(*parts))


@contextmanager
def kept_random_state(device: torch.device | None = None) -> Iterator[None]:
    """Restore the random state of torch (of the CPU, and of `device`), NumPy and Python at the end of the block."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng([device] if device is not None and device.type == "cuda" else []):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


class SampleKey(NamedTuple):
    """The address of one sample that a sampler asks for.

    Attributes:
        epoch: Number of the epoch, from 0.
        index: Position of the sample in its split.
        repeat: Number of earlier occurrences of the sample in this epoch (balanced sampling repeats samples; each
            repeat gets its own augmentation).
        partner: Sample to mix with, the next one in the order of the epoch; -1 for none.
        partner_repeat: Value of `repeat` of the partner.
    """

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which no key needs
    repeat: int = 0
    partner: int = -1
    partner_repeat: int = 0


class EpochSampler(Sampler[SampleKey]):
    """The training order: a new permutation in every epoch, reproducible from (seed, epoch).

    With several processes each global batch (`batch_size * num_replicas` successive keys) is cut into
    contiguous slices, one per rank, so the union over the ranks is the batch that a single process would see.
    The last, smaller global batch is cut evenly, and at most `num_replicas - 1` samples of the epoch are dropped;
    no sample is duplicated. A last batch of a single sample is dropped (BatchNorm has no variance there),
    unless it is the only one.

    Args:
        labels: Labels of the N samples of the split.
        seed: Seed of the run.
        balanced: Whether every class comes equally often: an epoch of N keys has N / K of each of the K classes,
            drawn through permutations of its images, so rare classes repeat images and frequent ones omit some.
        batch_size: Batch size of each process; only the slices and the last batch depend on it.
        num_replicas: Number of processes.
        rank: Rank of this process.

    Attributes:
        skip: Number of keys to skip at the start of the next iteration only, which a run resumed inside an epoch
            has already seen.
    """

    def __init__(
        self,
        labels: Sequence[int] | Tensor,
        *,
        seed: int = 0,
        balanced: bool = False,
        batch_size: int = 1,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank {rank} is not below num_replicas {num_replicas}")
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.seed, self.balanced = seed, balanced
        self.batch_size, self.num_replicas, self.rank = batch_size, num_replicas, rank
        self.epoch = 0
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration (Lightning calls this)."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole, tail = self._global_batches()
        return whole * self.batch_size + tail

    def __iter__(self) -> Iterator[SampleKey]:
        keys, skip = self.keys(self.epoch), self.skip
        self.skip = 0
        return keys.at(self._positions()[skip:])

    def keys(self, epoch: int) -> "EpochKeys":
        """Return the N keys of an epoch over all ranks, in order."""
        order = self._order(epoch)
        return EpochKeys(epoch, order, _occurrences(order) if self.balanced else torch.zeros_like(order))

    def _order(self, epoch: int) -> Tensor:
        generator = addressed_generator(self.seed, "order", epoch)
        if self.balanced:
            return self._balanced_order(generator)
        return torch.randperm(len(self.labels), generator=generator)

    def _balanced_order(self, generator: torch.Generator) -> Tensor:
        total, classes = len(self.labels), self.labels.unique()
        # Whole shares for all classes, and one more for some, drawn anew in each epoch
        shares = torch.full((len(classes),), total // len(classes))
        shares[torch.randperm(len(classes), generator=generator)[: total % len(classes)]] += 1
        drawn = []
        for label, share in zip(classes, shares.tolist(), strict=True):
            members = (self.labels == label).nonzero().flatten()
            rounds = -(-share // len(members))
            runs = [members[torch.randperm(len(members), generator=generator)] for _ in range(rounds)]
            drawn.append(torch.cat(runs)[:share] if runs else members[:0])
        order = torch.cat(drawn)
        return order[torch.randperm(total, generator=generator)]

    def _global_batches(self) -> tuple[int, int]:
        """Return the number of whole global batches, and this rank's share of the last, smaller one."""
        whole, rest = divmod(len(self.labels), self.batch_size * self.num_replicas)
        tail = rest // self.num_replicas
        return whole, tail if tail > 1 or (tail == 1 and (self.batch_size == 1 or not whole)) else 0

    def _positions(self) -> Tensor:
        """Return the positions in the epoch's keys that this rank takes, int64."""
        whole, tail = self._global_batches()
        batches = torch.arange(whole * self.batch_size * self.num_replicas)
        own = batches.view(whole, self.num_replicas, self.batch_size)[:, self.rank].flatten()
        start = len(batches) + self.rank * tail
        return torch.cat([own, torch.arange(start, start + tail)])


class EpochKeys(Sequence[SampleKey]):
    """The keys of an epoch, each made when it is asked for: an epoch of millions takes 16 bytes for each of them.

    Args:
        epoch: Number of the epoch.
        order: Samples in the order of the epoch, `N`, int64.
        repeats: Number of earlier occurrences of each, `N`, int64.
    """

    def __init__(self, epoch: int, order: Tensor, repeats: Tensor) -> None:
        self.epoch, self.order, self.repeats = epoch, order, repeats

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, place: int) -> SampleKey: ...
    @overload
    def __getitem__(self, place: slice) -> list[SampleKey]: ...
    def __getitem__(self, place: int | slice) -> SampleKey | list[SampleKey]:
        if isinstance(place, slice):
            return list(self.at(torch.arange(*place.indices(len(self)))))
        return next(self.at(torch.tensor([range(len(self))[place]])))

    def __iter__(self) -> Iterator[SampleKey]:
        return self.at(torch.arange(len(self)))

    def at(self, places: Tensor) -> Iterator[SampleKey]:
        """Yield the keys at these places, int64."""
        for some in places.split(KEYS_AT_ONCE):
            # The order closes to a ring, so that the last sample has a partner too
            next_ones = (some + 1) % len(self)
            columns = (self.order[some], self.repeats[some], self.order[next_ones], self.repeats[next_ones])
            for key in zip(*(column.tolist() for column in columns), strict=True):
                yield SampleKey(self.epoch, *key)


def _occurrences(order: Tensor) -> Tensor:
    """Return how often each entry has occurred before it, int64."""
    by_value = order.argsort(stable=True)
    counts = torch.bincount(order)
    first = (counts.cumsum(0) - counts)[order[by_value]]
    return torch.empty_like(order).scatter_(0, by_value, torch.arange(len(order)) - first)


class OrderedKeys(Sequence[SampleKey]):
    """Keys of samples as they are in one epoch, each made when it is asked for.

    Args:
        indices: Their positions in the split.
        epoch: Number of the epoch.
    """

    def __init__(self, indices: range, epoch: int = 0) -> None:
        self.indices, self.epoch = indices, epoch

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, place: int) -> SampleKey: ...
    @overload
    def __getitem__(self, place: slice) -> "OrderedKeys": ...
    def __getitem__(self, place: int | slice) -> "SampleKey | OrderedKeys":
        chosen = self.indices[place]
        return SampleKey(self.epoch, chosen) if isinstance(chosen, int) else OrderedKeys(chosen, self.epoch)


class SequentialSampler(Sampler[SampleKey]):
    """The evaluation order: each sample of a split once, in the order of the index.

    With several processes rank r takes the samples r, r + R, r + 2R, ...; none is repeated for padding, so the
    counts may differ by one.

    Args:
        total: Number of samples.
        num_replicas: Number of processes R.
        rank: Rank r of this process.
    """

    def __init__(self, total: int, *, num_replicas: int = 1, rank: int = 0) -> None:
        self._indices = range(rank, total, num_replicas)

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[SampleKey]:
        return (SampleKey(0, index) for index in self._indices)
