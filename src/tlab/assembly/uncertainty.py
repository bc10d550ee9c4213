"""What a checkpoint for use is given when training is over, so that alone it can say what it knows."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from tlab.core.processes import from_first_process

log = logging.getLogger(__name__)

if TYPE_CHECKING:  # torch is imported when a run begins, not for --help
    import lightning.pytorch as L
    from torch import Tensor

    from tlab.data.datamodule import ImageDataModule
    from tlab.data.sources.samples import Sample
    from tlab.models.module import ImageClassifier

NOT_FINITE = "features are not finite numbers, so %s cannot tell which images it knows"
MOST = {"train": 5_000, "val": 10_000}  # images of a split that are looked at


def keep_uncertainty(
    cfg: DictConfig,
    file: Path,
    trainer: "L.Trainer",
    module: "ImageClassifier",
    data: "ImageDataModule",
    validated: Path | None = None,
) -> None:
    """Let a checkpoint keep what its features look like, and how sure it is of images that it has not learned from.

    The features are those of training images without augmentation, at most 5,000, of each class as equally many as
    there are; the thresholds and the calibration are those of validation images, at most 10,000. Where training
    started at stored features they are read; else they take one pass of inference, a small part of an epoch's work
    for each image. A checkpoint that has them already stays as it is.

    A network that has also learned from the validation images cannot be judged by them: they look better known, and
    surer, than other images. It keeps the distribution of its own features, and the thresholds and calibration of
    the checkpoint that was validated. Distances are measured in standard deviations, and hold for both.

    Args:
        cfg: The run's configuration.
        file: The checkpoint, without which nothing is done (training may have ended before there was one).
        trainer: Its trainer, which has fitted the module.
        module: Its module; in the first process, it has the checkpoint's weights afterwards where there is work.
        data: Its data, with the images that the checkpoint has learned from as `train`.
        validated: Checkpoint whose thresholds and calibration hold; None: they are measured on `val`.
    """
    from_first_process(_keep, cfg, file, trainer, module, data, validated)


def _keep(
    cfg: DictConfig,
    file: Path,
    trainer: "L.Trainer",
    module: "ImageClassifier",
    data: "ImageDataModule",
    validated: Path | None,
) -> None:
    import torch

    from tlab.data.sampler import addressed_seed
    from tlab.models.autotune.precision import autocast
    from tlab.models.uncertainty.out_of_distribution import FeatureDistribution
    from tlab.models.uncertainty.uncertainty import Uncertainty
    from tlab.runs.checkpoints import write_checkpoint

    began = time.perf_counter()
    if not file.exists() or "uncertainty" in (checkpoint := _read(file))["tlab"]:
        return
    told = None if validated is None else _read(validated)["tlab"].get("uncertainty")
    if validated is not None and told is None:  # of an earlier version
        return
    device, weights, now = trainer.strategy.root_device, checkpoint["state_dict"], module.state_dict()
    stages = [name for name in now if name.startswith("net.backbone.")]
    # then what is stored of the images is what the checkpoint sees, too
    as_trained = cfg.finetune.soup is None and all(torch.equal(now[name].cpu(), weights[name]) for name in stages)
    module.load_state_dict(weights)
    module.to(device).eval()
    features, samples = _look(cfg, trainer, module, data, "train", as_trained)
    looked = f"{len(samples)} training"
    if not features.isfinite().all():
        log.warning(NOT_FINITE, file.name)
        return
    distribution = FeatureDistribution.fit(features.float(), _labels(samples), data.num_classes)
    if validated is not None:
        others = Uncertainty.read(told, data.num_classes, features.shape[1])
        kept = replace(others, features=distribution)
    else:
        features, samples = _look(cfg, trainer, module, data, "val", as_trained)
        looked = f"{looked} and {len(samples)} validation"
        with torch.inference_mode(), autocast(device, str(trainer.precision)):
            logits = module.net.head(features.to(device)).float().cpu()
        paths = (data.index.relative(sample.path) for sample in samples)
        uniform = torch.tensor([addressed_seed("conformal", path) / 2**64 for path in paths])
        if not (features.isfinite().all() and logits.isfinite().all()):
            log.warning(NOT_FINITE, file.name)
            return
        kept = Uncertainty.fit(distribution, features.float(), logits, _labels(samples), uniform)
    checkpoint["tlab"]["uncertainty"] = kept.plain()
    write_checkpoint(checkpoint, file)
    log.info("%s tells what it knows by %s images (%.1f s)", file.name, looked, time.perf_counter() - began)


def _read(file: Path) -> dict[str, Any]:
    import torch

    return torch.load(file, map_location="cpu", weights_only=True)


def _labels(samples: "Sequence[Sample]") -> "Tensor":
    import torch

    return torch.tensor([sample.label for sample in samples])


def _look(
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
