"""Keys to batches: decode, augment under addressed randomness, mix, stack."""

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
    """What a loader yields.

    Attributes:
        image: B 3 S S, uint8, RGB, not normalised (the model does that, on its device); or what the backbone's
            stages up to `after` return for them.
        label: B, int64; or B K, float32, rows that sum to 1, where mixing is on.
        index: B, int64, position of each sample in its split.
        after: last stage that has been computed, "pool" for pooled features; "" for images.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which no batch needs
    after: str = ""


class Augmentation(NamedTuple):
    """What happens to a training image.

    Attributes:
        transforms: name -> transform of uint8 3 H W, in order; None is left out.
        mixing: mixes images and labels; None, or of zero strength: no mixing.
    """

    transforms: Mapping[str, Any] = {}
    mixing: Mixing | None = None

    def active(self) -> "Augmentation":
        """Return what has an effect."""
        steps = {name: step for name, step in self.transforms.items() if step is not None}
        return Augmentation(steps, self.mixing if self.mixing is not None and self.mixing.active else None)


class ImageDataset(Dataset[Batch]):
    """The samples of one split, made on demand.

    What sample i looks like in epoch e is a function of (seed, e, i): where a transform draws from
    the global random state of torch and Python, that state is seeded from them, and put back afterwards. CUDA's is
    never touched.

    Args:
        samples: files and labels.
        finish: brings any uint8 3 H W image to 3 S S (see `augment.evaluation.evaluation_transform`).
        image_size: side S in pixels.
        augment: named transforms of uint8 3 H W, applied in order before `finish`; `finish` only follows
            where they do not end at S x S. None entries are left out. No mapping: evaluation.
        mixing: mix images and labels; needs `num_classes`.
        phases: phase of the run -> the augmentation that it has instead.
        num_classes: K.
        seed: seed of the run.

    Attributes:
        is_fixed: whether no phase augments anything, so that each sample has one look only.
        least_side: pixels of the shorter side that a decoder should leave; None: all.
        is_threadsafe: whether images may be made in several threads: no transform draws from a global generator.
        store: holds what `original` returns, if set.
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
        self.least_side = getattr(finish, "least_side", None)  # anybody else's `finish` gets every pixel
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

        A file that cannot be read any more gives the error as a value: raised in a worker process it would
        arrive wrapped in that worker's traceback. `loader.Loader` raises it.
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
        """Return the images of these keys; outside worker processes each core makes some, if that is safe."""
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
        """Return a sample before augmentation, which is what a store keeps of it.

        Args:
            index: position in the split.

        Returns:
            uint8: 3 S S, finished, if `is_fixed`; else 3 H W, as decoded.
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
        """Read the images from a store from now on, if that is wanted and pays (see `image_cache.choose_store`)."""
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
    """Return the image laid out C H W, as `contiguous` does; three times as fast from the layout H W C."""
    x_HWC = x_CHW.permute(1, 2, 0)
    if x_CHW.is_contiguous() or not x_HWC.is_contiguous():
        return x_CHW.contiguous()
    planes = np.empty(x_CHW.shape, np.uint8)
    cv2.split(x_HWC.numpy(), list(planes))
    return torch.from_numpy(planes)


def whole_batches(batch: Any) -> Any:
    """Return a batch as `ImageDataset` made it, whole already: the `collate_fn` of every loader over one."""
    return batch


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Put the random state of torch (CPU) and of Python back at the end of the block."""
    state, python_state = torch.default_generator.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
        random.setstate(python_state)
