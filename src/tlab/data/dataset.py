"""The dataset of a split: decodes, augments under addressed randomness, mixes and stacks images."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import Dataset, get_worker_info

from tlab.core.errors import UserError
from tlab.core.hardware import cpus_per_process, single_threaded, thread_pool
from tlab.data.augment.compose import Compose
from tlab.data.augment.mixup import Mixing
from tlab.data.decode import DecodeError, decode
from tlab.data.image_cache import ImageStore, choose_store
from tlab.data.sampler import Key, addressed_seed
from tlab.data.sources.folder import Sample

__all__ = ["Augmentation", "Batch", "ImageDataset", "whole_batches"]

Transform = Callable[[Tensor], Tensor]


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


class Augmentation(NamedTuple):
    """The augmentation of training images.

    Attributes:
        transforms: Name -> transform of uint8 `3 H W` images, in order; None entries are left out.
        mixing: Mixup or CutMix; None for no mixing.
    """

    transforms: Mapping[str, Any] = {}
    mixing: Mixing | None = None

    def active(self) -> "Augmentation":
        """Return a copy without null transforms and ineffective mixing."""
        steps = {name: step for name, step in self.transforms.items() if step is not None}
        return Augmentation(steps, self.mixing if self.mixing is not None and self.mixing.active else None)


class ImageDataset(Dataset[Batch]):
    """The images of one split, decoded and augmented on demand.

    Sample i in epoch e is a function of (seed, e, i): if a transform draws from the global random state of torch
    or Python, that state is seeded from them and restored afterwards. CUDA's is never touched.

    Args:
        samples: Image files and their labels.
        finish: Transform from uint8 3 H W to 3 S S (see `augment.evaluation.evaluation_transform`).
        image_size: Side S in pixels.
        augment: Named transforms of uint8 3 H W, applied in order; `finish` follows unless the result is S x S.
            None entries are left out. None for evaluation.
        mixing: Mixup or CutMix; needs `num_classes`.
        phases: Phase of the run -> augmentation that replaces `augment` and `mixing`.
        num_classes: Number of classes K.
        seed: Seed of the run.

    Attributes:
        is_fixed: Whether no phase applies a transform, so that a sample is the same in every epoch.
        least_side: Pixels that the decoder should keep of the shorter side; None: all.
        is_threadsafe: Whether images may be made in several threads: no transform draws from a global generator.
        store: Cache of what `original` returns, if set.
    """

    store: ImageStore | None = None

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        finish: Transform,
        image_size: int,
        augment: Mapping[str, Transform | None] | None = None,
        mixing: Mixing | None = None,
        phases: Mapping[str, Augmentation] | None = None,
        num_classes: int | None = None,
        seed: int = 0,
    ) -> None:
        self.samples = tuple(samples)
        self.finish = finish
        self.image_size = image_size
        own = Augmentation(augment or {}, mixing)
        self.augmentations = {name: each.active() for name, each in {"": own, **(phases or {})}.items()}
        self.chains = {name: Compose(each.transforms) for name, each in self.augmentations.items()}
        self.is_fixed = not any(chain.steps for chain in self.chains.values())
        self.is_threadsafe = not any(chain.seeds_globally for chain in self.chains.values())
        self.least_side = getattr(finish, "least_side", None)  # any other `finish` gets every pixel
        self.num_classes = num_classes
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key | tuple[int, int]) -> Batch:
        """Return a batch of one."""
        batch = self.__getitems__([key])
        if isinstance(batch, UserError):
            raise batch
        return batch

    def __getitems__(self, keys: Sequence[Key | tuple[int, int]]) -> Batch | UserError:
        """Return the batch of these keys (torch's loader calls this with a whole batch).

        A file that can no longer be read gives the error as a value: raised in a worker process it would arrive
        wrapped in that worker's traceback. `loader.Loader` raises it.
        """
        full = [Key(*key) for key in keys]
        partners = [Key(k.epoch, k.partner, k.partner_draw, phase=k.phase) for k in full if self._mixes(k)]
        wanted = {key[:3]: key for key in [*partners, *full]}
        try:
            with kept_random_state(), single_threaded():
                images = dict(zip(wanted, self._images(list(wanted.values())), strict=True))
        except UserError as error:
            return error
        index = torch.tensor([key.index for key in full])
        if not any(self._augmentation(key).mixing for key in full):
            labels = torch.tensor([self.samples[key.index].label for key in full])
            return Batch(torch.stack([images[key[:3]] for key in full]), labels, index)
        mixed, rows = zip(*(self._mix(key, images) for key in full), strict=True)
        return Batch(torch.stack(mixed), torch.stack(rows), index)

    def _images(self, keys: Sequence[Key]) -> list[Tensor]:
        """Return the images of these keys; outside worker processes made by a thread per core, if that is safe."""
        threads = cpus_per_process() if self.is_threadsafe and get_worker_info() is None else 1
        if min(threads, len(keys)) < 2:
            return [self.image(key) for key in keys]
        with thread_pool(threads) as pool:
            return list(pool.map(self.image, keys))

    def images(self, keys: Sequence[Key]) -> Tensor:
        """Return the images of these keys before mixing, made in this thread: B 3 S S, uint8."""
        return torch.stack([self.image(key) for key in keys])

    def image(self, key: Key) -> Tensor:
        """Return the image of a key before mixing: 3 S S, uint8. May seed the global random state."""
        augment = self.chains.get(key.phase, self.chains[""])
        x = self.store.read(key.index) if self.store else self.original(key.index)
        if augment.steps:
            x = augment(x, addressed_seed(self.seed, "augment", key.epoch, key.index, key.draw))
        if not self.is_fixed and (not augment.steps or x.shape[-2:] != (self.image_size, self.image_size)):
            x = self.finish(x)
        return _in_planes(x)

    def original(self, index: int) -> Tensor:
        """Return a sample before augmentation, as a store keeps it.

        Args:
            index: Position of the sample in the split.

        Returns:
            The image, uint8: `3 S S` after `finish` if `is_fixed`, else `3 H W` as decoded.
        """
        path = self.samples[index].path
        try:
            x = decode(path, self.least_side)
        except DecodeError as error:
            raise UserError(
                f"{path} can no longer be read ({error.reason}), though it could before training: put it back, "
                "or start again and it will be listed and skipped."
            ) from None
        return self.finish(x) if self.is_fixed else x

    def keep_decoded(self, mode: str, epochs: int | None) -> None:
        """Read the images from a store from now on, if `choose_store` decides so."""
        look = f"{self.finish!r}" if self.is_fixed else f"at least {self.least_side}"
        paths = [sample.file for sample in self.samples]
        self.store = choose_store(mode, paths, look, self.original, epochs)

    def _augmentation(self, key: Key) -> Augmentation:
        return self.augmentations.get(key.phase, self.augmentations[""])

    def _mixes(self, key: Key) -> bool:
        return self._augmentation(key).mixing is not None and key.partner >= 0

    def _mix(self, key: Key, images: Mapping[tuple[int, int, int], Tensor]) -> tuple[Tensor, Tensor]:
        mixing = self._augmentation(key).mixing
        assert mixing is not None
        assert self.num_classes is not None
        image, weight, partner = images[key[:3]], 1.0, key.index
        if self._mixes(key):
            partner = key.partner
            seed = addressed_seed(self.seed, "mix", key.epoch, key.index, key.draw)
            image, weight = mixing.mix(image, images[key.epoch, partner, key.partner_draw], seed)
        labels = torch.tensor([self.samples[key.index].label, self.samples[partner].label])
        rows = one_hot(labels, self.num_classes).float()
        return image, weight * rows[0] + (1 - weight) * rows[1]


def _in_planes(x_CHW: Tensor) -> Tensor:
    """Return the image contiguous as C H W; three times as fast as `contiguous` from the layout H W C."""
    x_HWC = x_CHW.permute(1, 2, 0)
    if x_CHW.is_contiguous() or not x_HWC.is_contiguous():
        return x_CHW.contiguous()
    planes = np.empty(x_CHW.shape, np.uint8)
    cv2.split(x_HWC.numpy(), list(planes))
    return torch.from_numpy(planes)


def whole_batches(batch: Any) -> Any:
    """Return the batch unchanged: the `collate_fn`, since `ImageDataset` returns whole batches."""
    return batch


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Restore the random state of torch (CPU) and of Python at the end of the block."""
    state, python_state = torch.default_generator.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
        random.setstate(python_state)
