"""The cache of features: the output of the frozen first stages is computed once per image and view."""

import functools
import hashlib
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor

from tlab.core.eviction import evict, free_bytes, open_locked, touch
from tlab.core.files import cache_dir
from tlab.core.hardware import cpus_per_process, free_memory
from tlab.core.processes import from_all_processes, from_first_process
from tlab.core.text import counted
from tlab.data import progress_bar
from tlab.data.datamodule import ImageDataModule
from tlab.data.feature_batches import FeatureBatches
from tlab.data.image_batches import ImageBatches
from tlab.data.loader import make_loader
from tlab.data.sampler import SampleKey
from tlab.data.skipping import cannot_be_read, replaced_rows
from tlab.data.sources.samples import Sample
from tlab.data.sources.verify import examine
from tlab.finetuning.features import fingerprint
from tlab.finetuning.features.image_view import ImageView
from tlab.finetuning.features.inference import CHUNK, chunks_of, run_prefix
from tlab.finetuning.features.rows import fill, has_features, row_dtype, to_rows, without_features
from tlab.finetuning.plan import Phase
from tlab.finetuning.run_state import PhaseRecord
from tlab.models.classifier import POOL, Classifier, digest
from tlab.models.logistic_regression import QUICK_UP_TO, memory_to_solve
from tlab.models.module import ImageClassifier

log = logging.getLogger(__name__)

VIEWS = 4  # stored views of an augmented image, unless the phase has fewer epochs
BATCH = {"cpu": CHUNK, "cuda": 256}  # images at once: a GPU wants many
GB = 10**9
NOT_READ = "it could not be read when its features were computed"


class FeatureCache:
    """Lets the phases of a run start at their first trainable stage.

    Stages that stay frozen through a phase are a fixed function of the image. Their output is computed once per
    image and view, without a graph, in the run's precision, and kept in the cache directory: one memory-mapped file
    per set of images, view and stage, named by a hash of all that it depends on (weights, code, precision,
    preprocessing, augmentation, seed and epoch of the view, files with size and time). So every run that needs the
    same rows reads them, and a deeper prefix starts from the rows of a shallower one. Of several processes one
    computes and the others wait; one that was killed is resumed.

    Images without augmentation have one view, and training gives the same result as without the cache. Augmented
    ones have `views`, which the epochs take in turn. Mixup blends rows; CutMix needs images, so training with it
    reads them.

    Args:
        views: Number of stored views of each augmented training image; None: 4, or the phase's epochs if fewer.
        max_gb: Maximum size of the cache in 10^9 bytes; the least recently used files are evicted.
    """

    def __init__(self, views: int | None = None, max_gb: float = 20.0) -> None:
        self.views = views
        self.max_bytes = int(max_gb * GB)

    def of_phase(
        self, trainer: L.Trainer, module: ImageClassifier, phase: Phase, record: PhaseRecord
    ) -> dict[str, FeatureBatches]:
        """Return split -> the output of the stages that a phase freezes, for what need not start at the images.

        Args:
            trainer: The run's trainer, whose data module is an `ImageDataModule`.
            module: The module, whose network is frozen for the phase.
            phase: The phase.
            record: Record of the phase, which has begun.
        """
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        upto = deepest(module.net.frozen_stages, module.net)
        measures = "val" in data.index.splits
        whole = _is_whole(trainer.limit_train_batches) and (not measures or _is_whole(trainer.limit_val_batches))
        # One epoch of maps is not worth the disk
        if not upto or not whole or (record.length == 1 and upto != POOL):
            return {}
        began = time.perf_counter()
        prefix = _Prefix(module, trainer, upto, record.digests_before)
        views = self._views(data, phase, record, pooled=upto == POOL)
        if not views:
            return {}
        features = prefix.features(views, data, self.max_bytes, record.start)
        if "train" in features:
            features["train"].mixing = data.training_images(phase.key).mixing
        if features:
            prefix.log_origin(
                f"phase {phase.key} {'is solved' if phase.solved else 'trains'}", time.perf_counter() - began
            )
        return features

    def obstacle(self, data: ImageDataModule, phase: Phase, features: int) -> str | None:
        """Return why a phase of the head alone cannot be solved on stored features; None if that is not known yet.

        What only shows when they are written is left to `of_phase`: a disk that is full.

        Args:
            data: The run's data module, set up.
            phase: The phase.
            features: Number of pooled features of an image.
        """
        images = data.training_images(phase.key)
        if images.mixing is not None:
            return "aug.mix mixes its images"
        if fingerprint.of_transforms({**images.augment.steps, "finish": images.finish}) is None:
            return "a transform of its images cannot be pickled, so no features are kept"
        rows = len(images) * (1 if images.is_fixed else self.views or VIEWS)
        size = (rows + len(data.index.splits.get("val", ()))) * features * 4
        if size > self.max_bytes:
            return f"features.max_gb={self.max_bytes / GB:g} does not hold the {size / GB:.2g} GB of its features"
        if rows * features * data.num_classes > QUICK_UP_TO:
            return f"its {rows} rows of {features} features and {data.num_classes} classes would take long to solve"
        needed = memory_to_solve(rows, features, data.num_classes)
        if needed > free_memory() // 2:
            return f"solving it takes {needed / GB:.2g} GB, more than half of the free memory"
        return None

    def of_test(
        self, trainer: L.Trainer, module: ImageClassifier, upto: str, digests: Mapping[str, str]
    ) -> FeatureBatches | None:
        """Return the output of stage `upto`, up to which no phase has trained anything, for the tested images.

        Args:
            trainer: As in `of_phase`.
            module: The module.
            upto: Last of the stages.
            digests: Digest of each stage, see `models.classifier.digest`.
        """
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        view = ImageView.plain(data, data.test_split)
        if not _is_whole(trainer.limit_test_batches) or view is None:
            return None
        prefix = _Prefix(module, trainer, upto, digests)
        return prefix.features({data.test_split: [view]}, data, self.max_bytes).get(data.test_split)

    def of_samples(
        self, trainer: L.Trainer, module: ImageClassifier, samples: Sequence[Sample]
    ) -> FeatureBatches | None:
        """Return what the head classifies of some images as evaluation sees them, where they can be kept.

        Args:
            trainer: As in `of_phase`.
            module: The module, no stage of which any phase has trained.
            samples: The images, whose features come in this order.
        """
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if (view := ImageView.of_samples(data, samples)) is None:
            return None
        digests = {name: digest(module.net.group(name)) for name in module.net.backbone.stage_names}
        prefix = _Prefix(module, trainer, POOL, digests)
        if not prefix.fits([view], self.max_bytes):
            return None
        try:
            array = prefix.array(view)
        except OSError:  # the disk is full
            return None
        prefix.have_features(view, array, rows := view.rows(samples), samples, data)
        return FeatureBatches([array], row_dtype(array), prefix.channels_last, after=POOL, rows=rows)

    def _views(
        self, data: ImageDataModule, phase: Phase, record: PhaseRecord, pooled: bool
    ) -> dict[str, list[ImageView]]:
        """Return the views that each split has in a phase; a split that is missing reads its images."""
        images = data.training_images(phase.key)
        measured = ["val"] if "val" in data.index.splits else []  # those of a refit are trained on
        train: list[ImageView | None]
        if images.is_fixed:
            train = val = [ImageView.plain(data, "train", *measured)]
        else:
            count = self.views or VIEWS
            if not phase.solved:
                count = min(count, record.length)
            train = [ImageView.augmented(images, record.start + number) for number in range(count)]
            if count == record.length and not pooled:
                train = []  # large, and each would be read once
            val = [ImageView.plain(data, *measured)]
        if images.mixing is not None and images.mixing.cutmix_alpha > 0:
            log.info("phase %s: CutMix needs images, so training reads them in every epoch", phase.key)
            train = []
        if None in train:
            log.info("phase %s: a transform cannot be pickled, so training reads images in every epoch", phase.key)
            train = []
        wanted = {"train": train, **dict.fromkeys(measured, val)}
        return {split: [view for view in views if view] for split, views in wanted.items() if any(views)}


def features_dir() -> Path:
    """Return the folder of all stored features."""
    return cache_dir() / "features"


def recipe_of(net: Classifier, precision: str, channels_last: bool) -> dict[str, Any]:
    """Return what features depend on besides the images and the stages, as plain data."""
    return {
        "network": net.backbone.variant,
        "mean": net.normalize.mean.flatten().tolist(),
        "std": net.normalize.std.flatten().tolist(),
        "precision": precision,
        "device": next(net.parameters()).device.type,
        "channels_last": channels_last,
        "code": fingerprint.of_code(),
    }


def file_of(recipe: Mapping[str, Any]) -> Path:
    """Return the file of features by all that they depend on."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return features_dir() / f"{digest[:32]}.npy"


def stored_rows(path: Path, count: int, compute: Callable[[int], Iterator[np.ndarray]]) -> np.ndarray:
    """Return the rows of a file, computed by one process if it is not there yet; the others wait.

    Args:
        path: The file, in a folder that is there.
        count: Number of rows.
        compute: Function of a row's number that yields blocks of rows from there on.

    Raises:
        OSError: They cannot be kept.
    """
    if not path.exists():
        with open_locked(path) as alone:
            if not path.exists():
                fill(path, count, compute, alone)
    touch(path)
    return np.load(path, mmap_mode="r")


def note_skipped(samples: Sequence[Sample], there: np.ndarray, data: ImageDataModule, file: Path) -> None:
    """Note the images without features as skipped.

    Where one can be read after all, the file of the features goes, and the next run computes them anew.

    Args:
        samples: N samples.
        there: Which of them have features: N, bool.
        data: Data module of the samples.
        file: File of the features.

    Raises:
        UserError: One has none, and `data.unreadable=error`.
    """
    for index in np.flatnonzero(~there).tolist():
        image = samples[index].file
        reason = examine(Path(image), data.max_megapixels).reason
        if not reason:
            file.unlink(missing_ok=True)
        reason = data.skipped.setdefault(image, reason or NOT_READ)
        if data.on_unreadable == "error":
            raise cannot_be_read(image, reason)


def deepest(frozen: Sequence[str], net: Classifier) -> str:
    """Return the last of the frozen first stages, `POOL` where all are frozen, "" where none is."""
    if len(frozen) == len(net.backbone.stage_names):
        return POOL
    return frozen[-1] if frozen else ""


class _Prefix:
    """The first stages, whose rows of features it finds in the cache directory, or computes."""

    def __init__(self, module: ImageClassifier, trainer: L.Trainer, upto: str, digests: Mapping[str, str]) -> None:
        self.module, self.trainer, self.upto = module, trainer, upto
        self.channels_last = module.memory_format == torch.channels_last
        self.folder = features_dir()
        self.computed = 0
        self.files: list[Path] = []
        net, names = module.net, module.net.backbone.stage_names
        self.steps = names[: len(names) if upto == POOL else names.index(upto) + 1]
        self.stages = [
            [name, digests[name], hashlib.sha256(str(net.backbone.stages[name]).encode()).hexdigest()]
            for name in self.steps
        ]
        self.recipe = recipe_of(net, str(trainer.precision), self.channels_last)

    def path(self, view: ImageView, upto: str) -> Path:
        """Return the file of a view's rows behind the stage `upto`."""
        stages = self.stages if upto == POOL else self.stages[: self.steps.index(upto) + 1]
        head = self.module.net.head
        pooling = [head.pooling, head.prefix_tokens] if upto == POOL else None
        return file_of({**self.recipe, **view.recipe, "stages": stages, "pooling": pooling})

    def features(
        self, views: Mapping[str, Sequence[ImageView]], data: ImageDataModule, max_bytes: int, start: int = 0
    ) -> dict[str, FeatureBatches]:
        """Return the rows of each split; of several processes all get them, or none does.

        The first one decides whether they fit. Where one of them cannot keep its rows, as on a full disk, none uses
        them: what the processes exchange in training depends on where their batches come from.

        Args:
            views: Split -> its views.
            data: Data module of the splits.
            max_bytes: Maximum size of the cache.
            start: First epoch of the views.
        """
        if not from_first_process(self.fits, [*itertools.chain(*views.values())], max_bytes):
            return {}
        features, failure = {}, None
        try:
            features = {split: self._batches(each, data, split, start) for split, each in views.items()}
        except OSError as error:
            failure = error.strerror or str(error)
        failures = [each for each in from_all_processes(failure) if each is not None]
        if not failures:
            return features
        log.warning(
            "features behind %s cannot be kept in %s (%s), so every epoch runs the frozen stages; make room there, "
            "or name another folder with TLAB_CACHE",
            *(self.upto, self.folder, failures[0]),
        )
        return {}

    def _batches(self, views: Sequence[ImageView], data: ImageDataModule, split: str, start: int) -> FeatureBatches:
        """Return the batches of a split, whose epochs take the views in turn."""
        arrays = [self.array(view) for view in views]
        samples = data.samples(split)
        rows = views[0].rows(samples)
        there = self.have_features(views[0], arrays[0], rows, samples, data)
        if split == "train":
            rows = replaced_rows(rows, samples, there)
        return FeatureBatches(
            arrays,
            row_dtype(arrays[0]),
            self.channels_last,
            after=self.upto,
            start=start,
            rows=rows,
            labels=torch.tensor(samples.labels),
            there=None if split == "train" or there.all() else there,
            num_classes=data.num_classes,
            seed=data.seed,
        )

    def have_features(
        self,
        view: ImageView,
        array: np.ndarray,
        rows: np.ndarray,
        samples: Sequence[Sample],
        data: ImageDataModule,
    ) -> np.ndarray:
        """Return which samples have features: N, bool; note the others, see `note_skipped`.

        Args:
            view: The view.
            array: All its rows.
            rows: Row of each sample: N, int64.
            samples: The samples.
            data: Data module of the samples.
        """
        there = has_features(array)[rows]
        note_skipped(samples, there, data, self.path(view, self.upto))
        return there

    def fits(self, views: Sequence[ImageView], max_bytes: int) -> bool:
        """Make room for the rows; return False, with a warning, where they do not fit."""
        sizes = {self.path(each, self.upto): len(each.keys) * self._row_bytes(each) for each in views}
        need, new = sum(sizes.values()), sum(size for path, size in sizes.items() if not path.exists())
        rooms = {
            f"features.max_gb={max_bytes / GB:g} allows": max_bytes,
            "half of the free memory holds": free_memory() // 2,
            "the disk of the cache has room for": free_bytes(self.folder) - new + need,
        }
        for what, room in rooms.items():
            if need > room:
                log.warning(
                    "features behind %s would take %.3g GB, but %s %.3g GB, so every epoch runs the frozen stages "
                    "(features.views=1 takes least)",
                    *(self.upto, need / GB, what, room / GB),
                )
                return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            evict(self.folder, max_bytes - new, keep=sizes)
        except OSError as error:
            log.warning(
                "%s cannot be written (%s), so every epoch runs the frozen stages; name another folder with "
                "TLAB_CACHE",
                *(self.folder, error.strerror or error),
            )
            return False
        return True

    def array(self, view: ImageView) -> np.ndarray:
        """Return the rows of a view, computed if they are not there yet."""
        path = self.path(view, self.upto)
        rows = stored_rows(path, len(view.keys), lambda first: self._compute(view, first))
        self.files.append(path)
        return rows

    def log_origin(self, who: str, seconds: float) -> None:
        """Log what `who` starts from, and the seconds that it took to compute."""
        where = "the pooled features" if self.upto == POOL else self.upto
        done = f"{self.computed} computed in {seconds:.1f} s" if self.computed else "computed earlier"
        files = set(self.files)
        images = counted(sum(len(np.load(path, mmap_mode="r")) for path in files), "image")
        size = sum(path.stat().st_size for path in files) / 1e6
        log.info("%s from %s of %s on: %s, %.3g MB in %s", who, where, images, done, size, self.folder)

    def _row_bytes(self, view: ImageView) -> int:
        """Return the bytes of one image's row, at most."""
        net = self.module.net
        pooled: Sequence[int] = (net.head.pooled_features,)
        shape = pooled if self.upto == POOL else net.backbone.stage_shapes(view.images.image_size)[self.upto]
        return math.prod(shape) * (2 if "16" in str(self.trainer.precision) else 4)

    def _compute(self, view: ImageView, first: int) -> Iterator[np.ndarray]:
        """Yield blocks of rows from row `first` on."""
        after, chunks, inputs = self._inputs(view, first)
        total, precision = len(view.keys) - first, str(self.trainer.precision)
        outputs = run_prefix(self.module.net, chunks, self.upto, after, precision, self.module.memory_format)
        for y in progress_bar.shown(outputs, f"Frozen stages to {self.upto}", total, size=len):
            self.computed += len(y)
            rows = slice(first, first := first + len(y))
            if inputs is None:
                missing = np.array(view.images.are_skipped(view.keys[rows]))
            else:
                missing = ~has_features(inputs[rows])
            yield without_features(to_rows(y, self.channels_last), missing)

    def _inputs(self, view: ImageView, first: int) -> tuple[str, Iterator[Callable[[], Tensor]], np.ndarray | None]:
        """Return the deepest stored stage, chunks of its rows from `first` on, and all rows.

        Without one, "", chunks of images, and None.
        """
        data: ImageDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        device, rows = self.module.device.type, range(first, len(view.keys))
        chunks = _chunks(rows, device)
        for stage in reversed(self.steps if self.upto == POOL else self.steps[:-1]):
            path = self.path(view, stage)
            if path.exists():
                touch(path)
                array = np.load(path, mmap_mode="r")
                stored = FeatureBatches([array], row_dtype(array), self.channels_last, after=stage)
                read = (functools.partial(stored.read, [(0, row) for row in chunk]) for chunk in chunks)
                return stage, read, array
        return "", image_chunks(view.images, view.keys[first:], device, data.num_workers), None


def pooled_features(
    module: ImageClassifier,
    images: ImageBatches,
    keys: Sequence[SampleKey],
    precision: str,
    num_workers: int | None,
) -> Tensor:
    """Return what the head classifies of the images of some keys, computed in one pass: `N D`, on the CPU.

    The features of an image that cannot be read are NaN.

    Args:
        module: The module, in evaluation mode.
        images: The images.
        keys: Which of them.
        precision: Precision of the arithmetic, as in the run.
        num_workers: As in `make_loader`.
    """
    chunks = image_chunks(images, keys, module.device.type, num_workers)
    outputs = run_prefix(module.net, chunks, POOL, "", precision, module.memory_format)
    found = torch.cat([y.cpu() for y in progress_bar.shown(outputs, "Features", len(keys), size=len)])
    return found.masked_fill(torch.tensor(images.are_skipped(keys))[:, None], torch.nan)


def _chunks(rows: range, device: str) -> list[range]:
    """Return the rows in chunks for a kind of device."""
    return list(chunks_of(rows, BATCH.get(device, 64), cpus_per_process() if device == "cpu" else 1))


def image_chunks(
    images: ImageBatches, keys: Sequence[SampleKey], device: str, num_workers: int | None
) -> Iterator[Callable[[], Tensor]]:
    """Return functions that return chunks of the images of these keys; one that cannot be read is black."""
    images = images.with_blanks()
    if device == "cpu" and images.is_threadsafe:
        chunks = _chunks(range(len(keys)), device)
        return (functools.partial(images.pixels, keys[chunk.start : chunk.stop]) for chunk in chunks)
    loader = make_loader(images, keys, BATCH.get(device, 64), num_workers)
    return (functools.partial(_itself, batch.image) for batch in loader)


def _itself(image: Tensor) -> Tensor:
    return image


def _is_whole(limit: int | float) -> bool:
    """Tell whether Lightning's limit lets all batches through: 1.0, while 1 is one batch."""
    return isinstance(limit, float) and limit == 1.0
