"""The data of a run: indexed, checked, split, and a loader for each split."""

import copy
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
from tlab.core.text import counted
from tlab.data.augment.evaluation import CROP_FRACTION, evaluation_transform
from tlab.data.augment.mixup import Mixing
from tlab.data.contents import NO_CHECK_BEFORE, Contents, Membership, contents
from tlab.data.decode_options import (
    MAX_MEGAPIXELS,
    MOSTLY_THERE,
    DecodeOptions,
    Levels,
    SampleRange,
    beyond_levels,
    choose_levels,
    level_remarks,
)
from tlab.data.feature_batches import FeatureBatches
from tlab.data.image_batches import ImageBatches, Transform
from tlab.data.loader import Loader, make_loader
from tlab.data.sampler import EpochSampler, SampleKey, SequentialSampler, addressed_generator
from tlab.data.skipping import IfUnreadable
from tlab.data.sources.evaluation_sources import TestSource
from tlab.data.sources.folder import ImageIndex
from tlab.data.sources.issues import find_issues, find_leaks
from tlab.data.sources.samples import Sample, Samples
from tlab.data.sources.verify import CHECK_SECONDS, FileChecks, Unreadable, by_reason, check_files, unreadable

log = logging.getLogger(__name__)

TEST = "test"
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
        augment: Named training transforms (see `ImageBatches`).
        mix: Mixup or CutMix for training.
        phases: Phase of the run -> `{transforms, mix}` that replace `augment` and `mix`.
        balanced: Whether training draws every class equally often.
        store: "auto", "on" or "off": keep decoded images on disk (see `image_cache.choose_store`).
        unreadable: "skip" leaves unreadable files out with a warning, "read" takes those that are cut short but
            there for the most part, "error" raises.
        bits: Bits of samples of more than 8 bits; "auto" looks at the range of all training images.
        max_megapixels: See `DecodeOptions`.
        check_seconds: What the check of the files may take (see `verify.check_files`); None: as long as it needs.
        seed: Seed of order, augmentation and mixing.

    Attributes:
        index: The readable files, by split.
        unreadable: The unreadable files, and why.
        checks: Absolute path -> `FileCheck` of each file.
        passed_over: Number of files that were not decoded before training.
        skipped: Files that turned out to be unreadable while they were used: absolute path -> reason.
        issues: Sentences about files that deserve a look.
        levels: Black and white of samples of more than 8 bits; chosen by `setup` unless set before, as a trained
            run has them.
        to_train: Whether they are to train with, which needs readable images of every class; set before `setup`.
        before: Which of the images that a check has passed over a resumed run has; set before `setup`.
        test_sources: Name -> function of the classes that builds the index of a further test; set before `setup`.
        tests: Name -> index of its readable files, which has one split.
        test_split: The split that a test measures: "test", or "test/NAME" of a further one.
    """

    index: ImageIndex
    levels: Levels | None = None
    to_train: bool = True
    before: Membership = NO_CHECK_BEFORE
    test_split: str = TEST

    def __init__(
        self,
        source: Callable[[], ImageIndex],
        *,
        image_size: int,
        batch_size: int = 32,
        num_workers: int | None = None,
        resize: Literal["crop", "pad"] = "crop",
        crop_fraction: float = CROP_FRACTION,
        augment: Mapping[str, Transform | None] | None = None,
        mix: Mixing | None = None,
        phases: Mapping[str, Mapping[str, Any]] | None = None,
        balanced: bool = False,
        store: Literal["auto", "on", "off"] = "auto",
        unreadable: Literal["skip", "read", "error"] = "skip",
        bits: int | Literal["auto"] = "auto",
        max_megapixels: float = MAX_MEGAPIXELS,
        check_seconds: float | None = CHECK_SECONDS,
        seed: int = 0,
    ) -> None:
        super().__init__()
        numbers = {"image_size": image_size, "batch_size": batch_size, "max_megapixels": max_megapixels}
        ways = {"resize": resize, "store": store, "unreadable": unreadable, "bits": bits}
        may_be_null = {"num_workers": num_workers, "check_seconds": check_seconds}
        for key, value in {**numbers, **ways, **may_be_null, "crop_fraction": crop_fraction}.items():
            if value is None and key not in may_be_null:
                raise UserError(f"data.{key}=null is not possible; leave it out, or give a value")
            check_value(f"data.{key}", value)
        self.source, self.image_size, self.batch_size = source, image_size, batch_size
        self.num_workers, self.resize, self.crop_fraction = num_workers, resize, crop_fraction
        self.augment, self.mix, self.balanced, self.seed = augment, mix, balanced, seed
        self.phases = phases or {}
        self.store, self.on_unreadable = store, unreadable
        self.bits, self.max_megapixels, self.check_seconds = bits, max_megapixels, check_seconds
        self.unreadable: list[Unreadable] = []
        self.checks: FileChecks[str] = FileChecks()
        self.passed_over = 0
        self.skipped: dict[str, str] = {}
        self.issues: list[str] = []
        self.test_sources: Mapping[str, TestSource] = {}
        self.tests: dict[str, ImageIndex] = {}
        self._loaders: dict[tuple[str, bool, int, int], Loader] = {}
        self._training_images: dict[str, ImageBatches] = {}

    def setup(self, stage: str | None = None) -> None:
        """Index and check the files, once. Writes nothing but the cache of the check.

        Raises:
            UserError: The data cannot be used, or a file is unreadable and `unreadable="error"`.
        """
        if hasattr(self, "index"):
            return
        index, self.unreadable = self._readable(self.source(), self.before)
        issues = [*index.issues, *find_issues(index, self.checks)]
        for name, source in self.test_sources.items():
            test, broken = self._readable(source(index.classes), NO_CHECK_BEFORE)
            if not test.splits:
                raise UserError(
                    f"data.tests.{name}: {test.root} has no image to measure, {len(broken)} cannot be read; "
                    "give another folder"
                )
            self.tests[name] = test
            issues += [*test.issues, *find_leaks(index, test, f"data.tests.{name}", self.checks)]
        self.index = index
        self.issues = [*issues, *self._choose_levels()]
        if os.environ.get("LOCAL_RANK", "0") == "0":  # only one of several processes logs
            for issue in self.issues:
                log.warning(issue)

    def _readable(self, index: ImageIndex, before: Membership) -> tuple[ImageIndex, list[Unreadable]]:
        """Check the files of an index; return it without the unreadable ones, and those."""
        files = [sample.file for samples in index.splits.values() for sample in samples]
        checks = check_files(index.root, files, self.max_megapixels, self.check_seconds)
        found = unreadable(checks, truncated=self.on_unreadable == "read")
        broken = before.unreadable(index.root, files, found, checks)
        if broken and self.on_unreadable == "error":
            raise UserError(
                f"{counted(broken, 'file')} unreadable below {index.root}: {_listed(index, broken)}; mend or "
                "remove them, or skip them with data.unreadable=skip."
            )
        try:
            readable = index.without([item.path for item in broken], self.to_train)
        except UserError as error:
            raise UserError(f"{error} Unreadable: {_listed(index, broken)}.") from None
        self.checks.add(checks)
        passed_over = sum(not checks[file].is_decoded for file in files)
        self.passed_over += passed_over
        if os.environ.get("LOCAL_RANK", "0") == "0":
            cut = sum(check.reason == MOSTLY_THERE for check in checks.values())
            if broken:
                hint = f"; data.unreadable=read takes those of which most is there ({cut})" if cut else ""
                log.warning("Skipping %s unreadable: %s%s", counted(broken, "file"), _listed(index, broken), hint)
            if passed_over:
                log.warning(
                    "Of %s %d not checked beforehand, since the check of a training may take "
                    "data.check_seconds=%g (null: as long as it needs); what cannot be read is skipped and listed.",
                    *(counted(files, "image"), passed_over, self.check_seconds),
                )
            if cut and self.on_unreadable == "read":
                log.warning("%s cut short: read as far as they go.", counted(cut, "image"))
        return readable, broken

    def _choose_levels(self) -> list[str]:
        """Choose black and white of deep samples by the training images, and say so where it is not as usual."""
        ranges: dict[bool, list[SampleRange]] = {True: [], False: []}  # of training images, and of others
        for split in (*self.index.splits, *self.further_tests):
            samples = self.samples(split)
            found = (self.checks[sample.file].samples for sample in samples)
            ranges[split == "train"] += [each for each in found if each is not None]
        remarks = []
        if self.levels is None:
            self.levels = choose_levels(ranges[True], None if self.bits == "auto" else self.bits)
            remarks = level_remarks(ranges[True], self.levels) if self.bits == "auto" else []
        return remarks + beyond_levels(ranges[False], self.levels)

    @property
    def decode_options(self) -> DecodeOptions:
        """How the files are decoded."""
        return DecodeOptions(self.levels or Levels(), self.max_megapixels, self.on_unreadable == "read")

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""
        return self.index.classes

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.index.classes)

    @property
    def further_tests(self) -> list[str]:
        """The splits of the further tests, "test/NAME"."""
        return [f"{TEST}/{name}" for name in self.tests]

    def samples(self, split: str) -> Samples:
        """Return the readable files of a split or a further test."""
        if split in self.further_tests:
            (samples,) = self.tests[split.removeprefix(f"{TEST}/")].splits.values()
            return samples
        return self.index.splits[split]

    def readable(self, split: str) -> int:
        """Return the number of samples of a split without those that turned out to be unreadable so far."""
        return sum(sample.file not in self.skipped for sample in self.samples(split))

    def contents(self) -> Contents:
        """Return the images by name, class, split and content."""
        return contents(self.index, self.checks, [item.path for item in self.unreadable])

    def class_counts(self) -> Tensor:
        """Return the number of training images of each class: K, int64."""
        return torch.bincount(torch.tensor(self.index.splits["train"].labels), minlength=self.num_classes)

    def class_weights(self) -> Tensor:
        """Return the weights of the training images' classes, see the function `class_weights`."""
        return class_weights(self.class_counts())

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
        keys = [SampleKey(0, index) for index in sorted(chosen.tolist())]
        for batch in make_loader(self.images(samples), keys, self.batch_size, self.num_workers):
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
            split: Name of the split: "train", "val", "test", or "test/NAME" of a further test.
            train: Shuffle, augment and mix; otherwise in order, as evaluation sees the images.

        Raises:
            UserError: There is no such split.
        """
        if split not in (*self.index.splits, *self.further_tests):
            raise UserError(
                f"split={split}: the data below {self.index.root} have only {', '.join(self.index.splits)}; "
                "add that folder, or set data.test_fraction for a test split."
            )
        replicas, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        address = (split, train, replicas, rank)
        if address not in self._loaders:
            samples = self.samples(split)
            images = self.training_images() if train else self.images(samples)
            sampler: Sampler[SampleKey] = SequentialSampler(len(samples), num_replicas=replicas, rank=rank)
            if train:
                sampler = EpochSampler(
                    torch.tensor(samples.labels),
                    seed=self.seed,
                    balanced=self.balanced,
                    batch_size=self.batch_size,
                    num_replicas=replicas,
                    rank=rank,
                )
            self._loaders[address] = make_loader(
                images, sampler, self.batch_size, self.num_workers, persistent=True
            )
        return self._loaders[address]

    def train_dataloader(self) -> Loader:
        """Return the training loader."""
        return self.loader("train", train=True)

    def val_dataloader(self) -> Loader:
        """Return the validation loader."""
        return self.loader("val")

    def test_dataloader(self) -> Loader:
        """Return the loader of the split that a test measures."""
        return self.loader(self.test_split)

    def fit_loaders(self) -> list[Loader]:
        """Return the training loader, and the validation loader where there are such images."""
        return [self.train_dataloader(), *([self.val_dataloader()] if "val" in self.index.splits else [])]

    def joined(self) -> "ImageDataModule":
        """Return the data of a refit: the same images, of which those of train and val are trained on together.

        Nothing is read or checked again, and what was chosen by the training images (`levels`) stays as it is.
        """
        data = copy.copy(self)
        data.index = self.index.with_val_in_train()
        data.trainer = None
        data._loaders, data._training_images = {}, {}
        return data

    def prepare(self, phase: str, features: Mapping[str, FeatureBatches] | None = None, epochs: int = 0) -> None:
        """Choose where the batches of training and validation come from in a phase of the run.

        Args:
            phase: Key of the phase, whose images may be augmented in a way of their own (see `phases`).
            features: Split -> cached features, which replace its images.
            epochs: Number of epochs for which images are decoded once, if that pays; the first of several
                processes decides for all. 0: no image is kept.
        """
        features = features or {}
        train, *val = self.fit_loaders()
        train.use(self.training_images(phase), features.get("train"))
        for loader in val:
            loader.use(loader.images, features.get("val"))
        for loader in (train, *val) if epochs else ():
            reads = loader.source is loader.images and not loader.has_workers
            if from_first_process(bool, reads):
                loader.images.keep_decoded(self.store, epochs)

    def prepare_test(self, features: FeatureBatches | None) -> None:
        """Let the test start from cached features, or from images where there are none."""
        test = self.test_dataloader()
        test.use(test.images, features)

    def images(self, samples: Sequence[Sample]) -> ImageBatches:
        """Return the images of these files as evaluation sees them; one that cannot be read is left out."""
        return self._images(samples, None, None, "drop")

    def training_images(self, phase: str = "") -> ImageBatches:
        """Return the training images as a phase augments and mixes them; the same object at every call."""
        phase = phase if phase in self.phases else ""
        if phase not in self._training_images:
            own = self.phases.get(phase, {"transforms": self.augment, "mix": self.mix})
            images = self._images(self.index.splits["train"], own["transforms"], own.get("mix"), "replace")
            self._training_images[phase] = images
        return self._training_images[phase]

    def _images(
        self,
        samples: Sequence[Sample],
        augment: Mapping[str, Transform | None] | None,
        mixing: Mixing | None,
        if_unreadable: IfUnreadable,
    ) -> ImageBatches:
        return ImageBatches(
            samples,
            finish=evaluation_transform(self.image_size, self.resize, self.crop_fraction),
            image_size=self.image_size,
            augment=augment,
            mixing=mixing,
            num_classes=self.num_classes,
            seed=self.seed,
            decode_options=self.decode_options,
            is_sound=self.checks.is_sound,
            if_unreadable="error" if self.on_unreadable == "error" else if_unreadable,
            skipped=self.skipped,
        )


def class_weights(counts: Tensor) -> Tensor:
    """Return N / (K * N_k) for each class k of N_k images: K, float32. Over the images their mean is 1."""
    return counts.sum() / (len(counts) * counts.float())


def _listed(index: ImageIndex, broken: list[Unreadable]) -> str:
    return by_reason(broken, index.relative)
