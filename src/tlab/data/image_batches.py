"""Batches of images: decoded, augmented under addressed randomness, mixed and stacked."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import get_worker_info

from tlab.core.hardware import cpus_per_process, single_threaded, thread_pool
from tlab.data.augment.compose import Compose
from tlab.data.augment.mixup import Mixing
from tlab.data.batch import Batch
from tlab.data.decode import DecodeError, decode
from tlab.data.decode_options import DEFAULTS, DecodeOptions
from tlab.data.image_cache import ImageStore, choose_store
from tlab.data.sampler import SampleKey, addressed_seed, kept_random_state
from tlab.data.skipping import MOST_TRIES, IfUnreadable, cannot_be_read, no_other_of_class, others_of_class
from tlab.data.sources.samples import Sample, Samples

Transform = Callable[[Tensor], Tensor]


class ImageBatches:
    """The images of a split, decoded and augmented on demand.

    Sample i in epoch e is a function of (seed, e, i): if a transform draws from the global random state of
    torch, NumPy or Python, that state is seeded from them and restored afterwards. CUDA's is never touched.

    Args:
        samples: Image files and their labels.
        finish: Transform from uint8 3 H W to 3 S S (see `augment.evaluation.evaluation_transform`).
        image_size: Side S in pixels.
        augment: Named transforms of uint8 3 H W, applied in order; `finish` follows unless the result is S x S.
            None entries are left out. None for evaluation.
        mixing: Mixup or CutMix; needs `num_classes`.
        num_classes: Number of classes K.
        seed: Seed of the run.
        decode_options: How the files are decoded.
        is_sound: Function that tells of a file whether it is known to be undamaged; None: all are.
        if_unreadable: What takes the place of an image that cannot be read, see `skipping`.
        skipped: Where such files are noted: absolute path -> reason.

    Attributes:
        augment: The transforms as one, without null entries.
        is_fixed: Whether there is none, so that a sample is the same in every epoch.
        least_side: Pixels that the decoder should keep of the shorter side; None: all.
        is_threadsafe: Whether images may be made in several threads: no transform draws from a global generator.
        store: Cache of what `original` returns, if set.
    """

    store: ImageStore | None = None

    def __init__(
        self,
        samples: Iterable[Sample],
        *,
        finish: Transform,
        image_size: int,
        augment: Mapping[str, Transform | None] | None = None,
        mixing: Mixing | None = None,
        num_classes: int | None = None,
        seed: int = 0,
        decode_options: DecodeOptions = DEFAULTS,
        is_sound: Callable[[str], bool] | None = None,
        if_unreadable: IfUnreadable = "error",
        skipped: dict[str, str] | None = None,
    ) -> None:
        self.samples = samples if isinstance(samples, Samples) else Samples(samples)
        self.finish = finish
        self.image_size = image_size
        self.augment = Compose(augment or {})
        self.mixing = mixing if mixing is not None and mixing.active else None
        self.is_fixed = not self.augment.steps
        self.is_threadsafe = not self.augment.seeds_globally
        self.least_side = getattr(finish, "least_side", None)  # any other `finish` gets every pixel
        self.num_classes = num_classes
        self.seed = seed
        self.decode_options = decode_options
        self.is_sound = is_sound
        self.if_unreadable = if_unreadable
        self.skipped = {} if skipped is None else skipped

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, keys: Sequence[SampleKey]) -> Batch:
        """Return the batch of these keys, maybe without some that cannot be read.

        Raises:
            UserError: A file cannot be read, and is neither left out nor replaced.
        """
        partners = [SampleKey(key.epoch, key.partner, key.partner_repeat) for key in keys if self._mixes(key)]
        wanted = {key[:3]: key for key in [*partners, *keys]}
        with kept_random_state(), single_threaded():
            made = dict(zip(wanted, self._images(list(wanted.values())), strict=True))
        images = {address: image for address, image in made.items() if image is not None}
        keys = [key for key in keys if key[:3] in images]
        if not keys:
            nothing = torch.empty(0, dtype=torch.int64)
            return Batch(torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8), nothing, nothing)
        index = torch.tensor([key.index for key in keys])
        if self.mixing is None:
            labels = torch.tensor([self.samples[key.index].label for key in keys])
            return Batch(torch.stack([images[key[:3]] for key in keys]), labels, index)
        mixed, rows = zip(*(self._mix(key, images) for key in keys), strict=True)
        return Batch(torch.stack(mixed), torch.stack(rows), index)

    def _images(self, keys: Sequence[SampleKey]) -> list[Tensor | None]:
        """Return the images of these keys; outside worker processes made by a thread per core, if that is safe."""
        threads = cpus_per_process() if self.is_threadsafe and get_worker_info() is None else 1
        if min(threads, len(keys)) < 2:
            return [self._image_or_substitute(key) for key in keys]
        with thread_pool(threads) as pool:
            return list(pool.map(self._image_or_substitute, keys))

    def pixels(self, keys: Sequence[SampleKey]) -> Tensor:
        """Return the images of these keys before mixing, made in this thread: B 3 S S, uint8."""
        found = map(self._image_or_substitute, keys)
        return torch.stack([self._blank() if image is None else image for image in found])

    def with_blanks(self) -> "ImageBatches":
        """Return the same images, but none of a batch is dropped: what cannot be read is black."""
        images = copy.copy(self)
        images.if_unreadable = "blank" if self.if_unreadable == "drop" else self.if_unreadable
        return images

    def are_skipped(self, keys: Sequence[SampleKey]) -> list[bool]:
        """Return for each key whether its file could not be read so far, and nothing replaces it."""
        if not self.skipped or self.if_unreadable == "replace":
            return [False] * len(keys)
        return [self.samples[key.index].file in self.skipped for key in keys]

    def _blank(self) -> Tensor:
        return torch.zeros(3, self.image_size, self.image_size, dtype=torch.uint8)

    def _image_or_substitute(self, key: SampleKey) -> Tensor | None:
        """Return the image of a key, or what takes its place."""
        try:
            return self.image(key)
        except DecodeError as error:
            path, reason = self.samples[key.index].path, error.reason
        if self.if_unreadable == "error":
            raise cannot_be_read(path, reason)
        self.skipped[str(path)] = reason
        if self.if_unreadable == "replace":
            return self._of_same_class(key)
        return self._blank() if self.if_unreadable == "blank" else None

    def _of_same_class(self, key: SampleKey) -> Tensor:
        for index in islice(others_of_class(self.samples.labels, key.index), MOST_TRIES):
            file = self.samples[index].file
            if file not in self.skipped:
                try:
                    return self.image(key._replace(index=index))
                except DecodeError as error:
                    self.skipped[file] = error.reason
        file = self.samples[key.index].file
        raise no_other_of_class(file, self.skipped[file])

    def image(self, key: SampleKey) -> Tensor:
        """Return the image of a key before mixing: 3 S S, uint8. May seed the global random state.

        Raises:
            DecodeError: It cannot be read.
        """
        x = self.store.read(key.index) if self.store else self.original(key.index)
        if not x.numel():  # it could not be read when the store was written
            x = self.original(key.index)
        if not self.is_fixed:
            x = self.augment(x, addressed_seed(self.seed, "augment", key.epoch, key.index, key.repeat))
            if x.shape[-2:] != (self.image_size, self.image_size):
                x = self.finish(x)
        return _in_planes(x)

    def original(self, index: int) -> Tensor:
        """Return a sample before augmentation, as a store keeps it.

        Args:
            index: Position of the sample in the split.

        Returns:
            The image, uint8: `3 S S` after `finish` if `is_fixed`, else `3 H W` as decoded.

        Raises:
            DecodeError: It cannot be read.
        """
        file = self.samples[index].file
        is_sound = self.is_sound is None or self.is_sound(file)
        x = decode(Path(file), self.least_side, self.decode_options, is_sound)
        return self.finish(x) if self.is_fixed else x

    def keep_decoded(self, mode: str, epochs: int) -> None:
        """Read the images from a store from now on, if `choose_store` decides so."""
        decoding = f"{self.finish!r}" if self.is_fixed else f"at least {self.least_side}"
        decoding += f" {self.decode_options}"
        paths = [sample.file for sample in self.samples]
        self.store = choose_store(mode, paths, decoding, self._original_or_empty, epochs)

    def _original_or_empty(self, index: int) -> Tensor:
        try:
            return self.original(index)
        except DecodeError as error:
            if self.if_unreadable == "error":
                raise cannot_be_read(self.samples[index].file, error.reason) from None
            return torch.empty(3, 0, 0, dtype=torch.uint8)

    def _mixes(self, key: SampleKey) -> bool:
        return self.mixing is not None and key.partner >= 0

    def _mix(self, key: SampleKey, images: Mapping[tuple[int, int, int], Tensor]) -> tuple[Tensor, Tensor]:
        assert self.mixing is not None
        assert self.num_classes is not None
        image, weight, partner = images[key[:3]], 1.0, key.index
        if self._mixes(key):
            partner = key.partner
            seed = addressed_seed(self.seed, "mix", key.epoch, key.index, key.repeat)
            image, weight = self.mixing.mix(image, images[key.epoch, partner, key.partner_repeat], seed)
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
