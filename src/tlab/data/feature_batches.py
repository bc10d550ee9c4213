"""Batches of cached features, in place of images."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tlab.data.augment.mixup import Mixing
from tlab.data.batch import Batch
from tlab.data.sampler import SampleKey, addressed_seed


class FeatureBatches:
    """Cached features of a split, which replace its images while the first stages are frozen.

    Epoch e gets view (e - start) modulo V. The views are those of the epochs from `start` on, so the first V epochs
    see exactly what they would without a cache, and the later ones see it again. A sample that a balanced epoch
    repeats gets the next view.

    Args:
        views: V memory-mapped arrays with a row per file: N x (shape of a row).
        dtype: Type of the rows (bfloat16 is stored as int16 of the same bits).
        channels_last: Whether rows that are feature maps are stored as `H W C`.
        after: Last stage already computed (`Batch.after`).
        start: Epoch of the first view.
        rows: Row of each sample of the split; None if they are in the same order.
        labels: Label of each sample of the split.
        there: Whether a sample has features; those that have none are left out of the batches. None: all have.
        mixing: Mixup, which blends the rows; None for no mixing.
        num_classes: Number of classes K, for mixing.
        seed: Seed of the run, for mixing.
    """

    def __init__(
        self,
        views: Sequence[np.ndarray],
        dtype: torch.dtype,
        channels_last: bool,
        *,
        after: str,
        start: int = 0,
        rows: Sequence[int] | np.ndarray | None = None,
        labels: Sequence[int] | Tensor = (),
        there: np.ndarray | None = None,
        mixing: Mixing | None = None,
        num_classes: int = 0,
        seed: int = 0,
    ) -> None:
        self.views, self.dtype, self.channels_last = list(views), dtype, channels_last
        self.rows = np.arange(len(views[0])) if rows is None else np.asarray(rows)
        self.labels, self.there = torch.as_tensor(labels), there
        self.after, self.start = after, start
        self.mixing, self.num_classes, self.seed = mixing, num_classes, seed

    @property
    def is_pooled(self) -> bool:
        """Whether a row is a vector, not a feature map."""
        return self.views[0].ndim == 2

    def view(self, number: int) -> Tensor:
        """Return one view of all samples, in the order of the split: `N D` or `N C H W`."""
        return self.read([(self.start + number, index) for index in range(len(self.rows))])

    def batch(self, keys: Sequence[SampleKey]) -> Batch:
        """Return the batch of these keys, without samples that have no features."""
        keys = keys if self.there is None else [key for key in keys if self.there[key.index]]
        index = torch.tensor([key.index for key in keys], dtype=torch.int64)
        rows = self.read([(key.epoch + key.repeat, key.index) for key in keys])
        labels = self.labels[index]
        if self.mixing is None:
            return Batch(rows, labels, index, self.after)
        weights, partners = zip(*(self._mixes(key) for key in keys), strict=True)
        weight = torch.tensor(weights)
        others = self.read(partners)
        shaped = weight.view(-1, *[1] * (rows.ndim - 1))
        mixed = torch.lerp(others.float(), rows.float(), shaped).to(rows.dtype)
        targets = [one_hot(y, self.num_classes).float() for y in (labels, self.labels[[i for _, i in partners]])]
        return Batch(mixed, torch.lerp(targets[1], targets[0], weight[:, None]), index, self.after)

    def _mixes(self, key: SampleKey) -> tuple[float, tuple[int, int]]:
        """Return the share of a key's own sample, and (epoch, sample) of what it is mixed with."""
        assert self.mixing is not None
        if key.partner < 0:
            return 1.0, (key.epoch + key.repeat, key.index)
        weight = self.mixing.weight(addressed_seed(self.seed, "mix", key.epoch, key.index, key.repeat))
        return weight, (key.epoch + key.partner_repeat, key.partner)

    def read(self, addresses: Sequence[tuple[int, int]]) -> Tensor:
        """Return copies of the rows for each (epoch, sample)."""
        view = np.array([(epoch - self.start) % len(self.views) for epoch, _ in addresses])
        row = self.rows[[index for _, index in addresses]]
        # Of an empty array, since torch warns of read-only ones
        kind = torch.from_numpy(np.empty(0, self.views[0].dtype)).dtype
        # Torch aligns it, so that sums are bitwise the same
        x = torch.empty((len(row), *self.views[0].shape[1:]), dtype=kind)
        out = x.numpy()
        for number in np.unique(view):
            of_view = view == number
            out[of_view] = self.views[number][row[of_view]]
        x = x.view(self.dtype) if x.dtype != self.dtype else x
        return x.movedim(-1, 1) if self.channels_last and x.ndim == 4 else x
