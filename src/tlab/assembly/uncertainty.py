"""What a checkpoint for use is given when training is over, so that alone it can say what it knows."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from tlab.core.text import counted

log = logging.getLogger(__name__)

if TYPE_CHECKING:  # torch is imported when a run begins, not for --help
    import lightning.pytorch as L
    from torch import Tensor

    from tlab.data.datamodule import ImageDataModule
    from tlab.data.sources.samples import Sample
    from tlab.models.module import ImageClassifier
    from tlab.models.uncertainty.out_of_distribution import FeatureDistribution
    from tlab.models.uncertainty.uncertainty import Uncertainty

NOT_FINITE = "features are not finite numbers, so %s cannot tell which images it knows"
MOST = {"train": 5_000, "val": 10_000}  # images of a split that are looked at


def add_uncertainty(
    cfg: DictConfig,
    checkpoint: dict[str, Any],
    name: str,
    trainer: "L.Trainer",
    module: "ImageClassifier",
    data: "ImageDataModule",
    validated: Mapping[str, Any] | None = None,
) -> bool:
    """Let a checkpoint keep what its features look like, and how sure it is of images that it has not learned from.

    The features are those of training images without augmentation, at most 5,000, of each class as equally many as
    there are; the thresholds and the calibration are those of validation images, at most 10,000. Where training
    started at stored features they are read; else they take one pass of inference, a small part of an epoch's work
    for each image. A checkpoint that has them already stays as it is. It is for the first process alone.

    A network that has also learned from the validation images cannot be judged by them: they look better known, and
    surer, than other images. It keeps the distribution of its own features, and the thresholds and calibration of
    the checkpoint that was validated. Distances are measured in standard deviations, and hold for both.

    Args:
        cfg: The run's configuration.
        checkpoint: The checkpoint's content.
        name: Its name, for what is logged.
        trainer: Its trainer, which has fitted the module.
        module: Its module, which has the checkpoint's weights afterwards where there is work.
        data: Its data, with the images that the checkpoint has learned from as `train`.
        validated: What the checkpoint says of itself whose thresholds and calibration hold; None: they are measured
            on `val`.

    Returns:
        Whether something was added.
    """
    import torch

    from tlab.models.autotune.precision import autocast
    from tlab.models.uncertainty.uncertainty import Uncertainty

    began = time.perf_counter()
    told = None if validated is None else validated.get("uncertainty")
    if "uncertainty" in checkpoint["tlab"] or (validated is not None and told is None):  # of an earlier version
        return False
    device, weights, now = trainer.strategy.root_device, checkpoint["state_dict"], module.state_dict()
    stages = [key for key in now if key.startswith("net.backbone.")]
    # then what is stored of the images is what the checkpoint sees, too
    as_trained = cfg.finetune.soup is None and all(torch.equal(now[key].cpu(), weights[key]) for key in stages)
    module.load_state_dict(weights)
    module.to(device).eval()
    features, samples = look(cfg, trainer, module, data, "train", as_trained)
    looked, kept = counted(samples, "training image"), None
    if (distribution := distribution_of(features, samples, data)) is not None and validated is not None:
        others = Uncertainty.read(told, data.num_classes, features.shape[1])
        kept = replace(others, features=distribution)
    elif distribution is not None:
        features, samples = look(cfg, trainer, module, data, "val", as_trained)
        looked = f"{looked} and {counted(samples, 'validation image')}"
        with torch.inference_mode(), autocast(device, str(trainer.precision)):
            logits = module.net.head(features.to(device)).float().cpu()
        kept = uncertainty_of(distribution, features, logits, samples, data)
    if kept is None:
        log.warning(NOT_FINITE, name)
        return False
    checkpoint["tlab"]["uncertainty"] = kept.plain()
    took = time.perf_counter() - began
    log.info("%s tells known from unknown images by %s (%.1f s)", name, looked, took)
    return True


def distribution_of(
    features: "Tensor", samples: "Sequence[Sample]", data: "ImageDataModule"
) -> "FeatureDistribution | None":
    """Return what features `N D` of training images look like; None where they are no finite numbers."""
    from tlab.models.uncertainty.out_of_distribution import FeatureDistribution

    if not features.isfinite().all():
        return None
    return FeatureDistribution.fit(features.float(), _labels(samples), data.num_classes)


def uncertainty_of(
    distribution: "FeatureDistribution",
    features: "Tensor",
    logits: "Tensor",
    samples: "Sequence[Sample]",
    data: "ImageDataModule",
) -> "Uncertainty | None":
    """Return what validation images of features `N D` and logits `N K` say; None where these are not finite."""
    import torch

    from tlab.data.sampler import addressed_seed
    from tlab.models.uncertainty.uncertainty import Uncertainty

    if not (features.isfinite().all() and logits.isfinite().all()):
        return None
    paths = (data.index.relative(sample.path) for sample in samples)
    uniform = torch.tensor([addressed_seed("conformal", path) / 2**64 for path in paths])
    return Uncertainty.fit(distribution, features.float(), logits, _labels(samples), uniform)


def _labels(samples: "Sequence[Sample]") -> "Tensor":
    import torch

    return torch.tensor([sample.label for sample in samples])


def look(
    cfg: DictConfig,
    trainer: "L.Trainer",
    module: "ImageClassifier",
    data: "ImageDataModule",
    split: str,
    as_trained: bool,
) -> "tuple[Tensor, list[Sample]]":
    """Return what the head classifies of images of a split, as evaluation sees them: `N D`, on the CPU; and which.

    Args:
        cfg: The run's configuration.
        trainer: Its trainer.
        module: Its module.
        data: Its data.
        split: `train` or `val`.
        as_trained: Whether the stages are those with which training has ended.
    """
    from tlab.data.feature_batches import FeatureBatches
    from tlab.data.sampler import SampleKey
    from tlab.finetuning import FeatureCache
    from tlab.finetuning.features.cache import pooled_features

    everything = data.samples(split)
    rows = drawn(_labels(everything), _most(split, trainer, data), by_class=split == "train").tolist()
    samples = [everything[row] for row in rows]
    loader = data.val_dataloader() if split == "val" else data.train_dataloader()
    images, stored = loader.images, loader.source
    if as_trained and isinstance(stored, FeatureBatches) and stored.is_pooled:
        if images.is_fixed:
            return _readable(stored.read([(stored.start, row) for row in rows]), samples, data)
        cache = FeatureCache(cfg.features.views, cfg.features.max_gb)  # what is there is augmented
        if (plain := cache.of_samples(trainer, module, samples)) is not None:
            return _readable(plain.view(0), samples, data)
    if not images.is_fixed:
        images, rows = data.images(samples), [*range(len(samples))]
    keys = [SampleKey(0, row) for row in rows]
    features = pooled_features(module, images, keys, str(trainer.precision), data.num_workers)
    return _readable(features, samples, data)


def _readable(
    features: "Tensor", samples: "list[Sample]", data: "ImageDataModule"
) -> "tuple[Tensor, list[Sample]]":
    """Return both without the images that could not be read."""
    if not data.skipped:
        return features, samples
    kept = [row for row, sample in enumerate(samples) if sample.file not in data.skipped]
    return features[kept], [samples[row] for row in kept]


def _most(split: str, trainer: "L.Trainer", data: "ImageDataModule") -> int:
    """Return how many images of a split are looked at, at most: fewer where the run itself was limited."""
    batches = trainer.num_training_batches if split == "train" else sum(trainer.num_val_batches)
    taken = batches * data.batch_size * trainer.world_size
    return int(min(MOST[split], taken or MOST[split]))


def drawn(labels: "Tensor", most: int, by_class: bool = False) -> "Tensor":
    """Return the positions of at most `most` images, in order.

    Args:
        labels: Labels of the images, `N`.
        most: Their number at most.
        by_class: Whether each class gives equally many, as far as it has them.
    """
    import torch

    from tlab.data.sampler import addressed_generator

    order = torch.randperm(len(labels), generator=addressed_generator("uncertainty"))
    if by_class:
        of_class = labels[order].argsort(stable=True)
        counts = torch.bincount(labels)
        before = (counts.cumsum(0) - counts).repeat_interleave(counts)
        turn = torch.empty_like(of_class).scatter_(0, of_class, torch.arange(len(labels)) - before)
        order = order[turn.argsort(stable=True)]
    return order[:most].sort().values
