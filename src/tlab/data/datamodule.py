"""The data of a run: indexed, checked, split, and a loader for each split."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.utils.data import Sampler

from tlab.config.validation import check_value
from tlab.core.errors import UserError
from tlab.core.processes import from_first_process
from tlab.core.text import few
from tlab.data.augment.mixup import Mixing
from tlab.data.contents import Contents, contents
from tlab.data.dataset import Augmentation, ImageDataset, Transform
from tlab.data.loader import Loader, make_loader
from tlab.data.sampler import EpochSampler, Key, SequentialSampler, addressed_generator
from tlab.data.sources.folder import ImageIndex, Sample
from tlab.data.sources.issues import find_issues
from tlab.data.sources.verify import FileCheck, Unreadable, check_files, unreadable

log = logging.getLogger(__name__)

MEASURED_IMAGES = 2_000  # largest number of images that mean_std reads

RGB = tuple[float, float, float]


class ImageDataModule(L.LightningDataModule):
    """The data of a run. Call `setup()` once before reading the attributes below.

    Args:
        source: Function that builds the index; called by `setup`.
        image_size: Side S of the images in a batch, in pixels.
        batch_size: Batch size B of each process.
        num_workers: Number of decoding processes; None chooses by `loader.choose_workers`. The batches are the same
            for any number.
        resize: "crop" keeps the center, "pad" the whole image (evaluation, and training where `augment`
            leaves another size).
        crop_fraction: Share of the shorter side that "crop" keeps.
        augment: Named training transforms (see `ImageDataset`).
        mix: Mixup or CutMix for training.
        phases: Phase of the run -> `{transforms, mix}` that replace `augment` and `mix`.
        balanced: Whether training draws every class equally often.
        store: "auto", "on" or "off": keep decoded images on disk (see `image_cache.choose_store`).
        unreadable: "skip" leaves unreadable files out with a warning, "error" raises.
        seed: Seed of order, augmentation and mixing.

    Attributes:
        index: The readable files, by split.
        unreadable: The unreadable files, and why.
        verdicts: Absolute path -> `FileCheck` of each file.
        remarks: Sentences about files that deserve a look.
    """

    index: ImageIndex

    def __init__(
        self,
        source: Callable[[], ImageIndex],
        *,
        image_size: int,
        batch_size: int = 32,
        num_workers: int | None = None,
        resize: Literal["crop", "pad"] = "crop",
        crop_fraction: float = 0.875,
        augment: Mapping[str, Transform | None] | None = None,
        mix: Mixing | None = None,
        phases: Mapping[str, Mapping[str, Any]] | None = None,
        balanced: bool = False,
        store: Literal["auto", "on", "off"] = "auto",
        unreadable: Literal["skip", "error"] = "skip",
        seed: int = 0,
    ) -> None:
        super().__init__()
        numbers = {"image_size": image_size, "batch_size": batch_size, "num_workers": num_workers}
        ways = {"resize": resize, "store": store, "unreadable": unreadable}
        for key, value in {**numbers, **ways, "crop_fraction": crop_fraction}.items():
            if value is None and key != "num_workers":
                raise UserError(f"data.{key}=null is not possible; leave it out, or give a value")
            check_value(f"data.{key}", value)
        self.source, self.image_size, self.batch_size = source, image_size, batch_size
        self.num_workers, self.resize, self.crop_fraction = num_workers, resize, crop_fraction
        self.augment, self.mix, self.balanced, self.seed = augment, mix, balanced, seed
        self.phases = {name: Augmentation(a["transforms"], a.get("mix")) for name, a in (phases or {}).items()}
        self.store, self.on_unreadable = store, unreadable
        self.unreadable: list[Unreadable] = []
        self.verdicts: dict[str, FileCheck] = {}
        self.remarks: list[str] = []
        self._loaders: dict[tuple[str, bool, int, int], Loader] = {}

    def setup(self, stage: str | None = None) -> None:
        """Index and check the files, once. Writes nothing but the cache of the check.

        Raises:
            UserError: The data cannot be used, or a file is unreadable and `unreadable="error"`.
        """
        if hasattr(self, "index"):
            return
        index = self.source()
        verdicts = check_files(index.root, [s.file for samples in index.splits.values() for s in samples])
        broken = unreadable(verdicts)
        if broken and self.on_unreadable == "error":
            raise UserError(
                f"{_count(broken)} unreadable below {index.root}: {_listed(index, broken)}; mend or remove them, "
                "or skip them with data.unreadable=skip."
            )
        index = index.without([item.path for item in broken])
        self.unreadable, self.verdicts, self.index = broken, verdicts, index
        self.remarks = [*index.remarks, *find_issues(index, verdicts)]
        if os.environ.get("LOCAL_RANK", "0") == "0":  # only one of several processes logs
            if broken:
                log.warning("Skipping %s unreadable: %s", _count(broken), _listed(index, broken))
            for remark in self.remarks:
                log.warning(remark)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""
        return self.index.classes

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.index.classes)

    def contents(self) -> Contents:
        """Return the images by name, class, split and content."""
        digests = {file: verdict.digest for file, verdict in self.verdicts.items()}
        return contents(self.index, digests, [item.path for item in self.unreadable])

    def class_counts(self) -> Tensor:
        """Return the number of training images of each class: K, int64."""
        labels = torch.tensor([sample.label for sample in self.index.splits["train"]])
        return torch.bincount(labels, minlength=self.num_classes)

    def class_weights(self) -> Tensor:
        """Return N / (K * N_k) for each class k: K, float32. Over the training images their mean is 1."""
        counts = self.class_counts()
        return counts.sum() / (len(counts) * counts.float())

    def mean_std(self) -> tuple[RGB, RGB]:
        """Return mean and standard deviation per channel of the training pixels, in 0..1.

        Measured without augmentation on at most 2,000 images, drawn by the seed. The standard deviation is at
        least one gray level (1/255), so that dividing by it is safe.
        """
        samples = self.index.splits["train"]
        chosen = torch.randperm(len(samples), generator=addressed_generator(self.seed, "mean_std"))[
            :MEASURED_IMAGES
        ]
        total, squares, pixels = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 0
        keys = [Key(0, index) for index in sorted(chosen.tolist())]
        for batch in make_loader(self.dataset(samples), keys, self.batch_size, self.num_workers):
            x = batch.image.double() / 255
            total += x.sum((0, 2, 3))
            squares += x.square().sum((0, 2, 3))
            pixels += x[:, 0].numel()
        mean = total / pixels
        std = (squares / pixels - mean.square()).clamp(min=1 / 255**2).sqrt()
        return tuple(mean.tolist()), tuple(std.tolist())

    def loader(self, split: str, train: bool = False) -> Loader:
        """Return the loader of a split, the same one at every call.

        Args:
            split: Name of the split: "train", "val" or "test".
            train: Shuffle, augment and mix; otherwise in order, as evaluation sees the images.

        Raises:
            UserError: There is no such split.
        """
        if split not in self.index.splits:
            raise UserError(
                f"split={split}: the data below {self.index.root} have only {', '.join(self.index.splits)}; "
                "add that folder, or set data.test_fraction for a test split."
            )
        replicas, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        address = (split, train, replicas, rank)
        if address not in self._loaders:
            dataset = self.dataset(self.index.splits[split], augmented=train)
            sampler: Sampler[Key] = SequentialSampler(len(dataset), num_replicas=replicas, rank=rank)
            if train:
                sampler = EpochSampler(
                    [sample.label for sample in dataset.samples],
                    seed=self.seed,
                    balanced=self.balanced,
                    batch_size=self.batch_size,
                    num_replicas=replicas,
                    rank=rank,
                )
            self._loaders[address] = make_loader(
                dataset, sampler, self.batch_size, self.num_workers, persistent=True
            )
        return self._loaders[address]

    def train_dataloader(self) -> Loader:
        """Return the training loader."""
        return self.loader("train", train=True)

    def val_dataloader(self) -> Loader:
        """Return the validation loader."""
        return self.loader("val")

    def test_dataloader(self) -> Loader:
        """Return the test loader."""
        return self.loader("test")

    def augment_for(self, phase: str) -> None:
        """Augment the training images of the coming epochs as a phase asks (see `phases`)."""
        sampler = self.train_dataloader().sampler
        assert isinstance(sampler, EpochSampler)
        sampler.phase = phase

    def keep_decoded(self, epochs: int) -> None:
        """Decode each training and validation image once for `epochs` epochs, if that pays.

        The first of several processes decides for all.
        """
        for loader in (self.train_dataloader(), self.val_dataloader()):
            reads = loader.stored is None and not loader.has_workers
            if from_first_process(lambda: reads):  # noqa: B023 - called at once
                loader.images.keep_decoded(self.store, epochs)

    def augmentation(self, phase: str) -> Augmentation:
        """Return the augmentation of a phase."""
        return self.phases.get(phase, Augmentation(self.augment or {}, self.mix)).active()

    def dataset(self, samples: Sequence[Sample], augmented: bool = False) -> ImageDataset:
        """Return the dataset of these files, as evaluation sees them, or as training does (`augmented`)."""
        from tlab.data.augment.evaluation import evaluation_transform

        return ImageDataset(
            samples,
            finish=evaluation_transform(self.image_size, self.resize, self.crop_fraction),
            image_size=self.image_size,
            augment=self.augment if augmented else None,
            mixing=self.mix if augmented else None,
            phases=self.phases if augmented else None,
            num_classes=self.num_classes,
            seed=self.seed,
        )


def _count(broken: list[Unreadable]) -> str:
    return f"{len(broken)} file{'s' * (len(broken) > 1)}"


def _listed(index: ImageIndex, broken: list[Unreadable]) -> str:
    return few(f"{index.relative(item.path)} ({item.reason})" for item in broken)
