"""A batch of samples, and what batches come from."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from tlab.data.sampler import SampleKey


class Batch(NamedTuple):
    """A batch, as a loader yields it.

    Attributes:
        image: B 3 S S, uint8, RGB, not normalized (the model does that on its device); or the outputs of the
            backbone's stages up to `after`.
        label: B, int64; with mixing B K, float32, rows that sum to 1.
        index: B, int64, position of each sample in its split.
        after: Last backbone stage already computed, "pool" for pooled features; "" for images.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which no batch needs
    after: str = ""


class BatchSource(Protocol):
    """Where the batches of a loader come from: `ImageBatches`, or `FeatureBatches` behind frozen stages."""

    def batch(self, keys: Sequence[SampleKey]) -> Batch:
        """Return the batch of these keys.

        Raises:
            UserError: A file can no longer be read.
        """
