"""BatchNorm's statistics: the weights' own, or those of the training images; and which of them suit better."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tlab.core.errors import UserError
from tlab.core.files import atomic_path, cache_dir
from tlab.core.measurements import remembered
from tlab.core.processes import from_first_process
from tlab.core.text import counted
from tlab.data.batch import Batch
from tlab.data.datamodule import ImageDataModule
from tlab.data.loader import make_loader
from tlab.data.sampler import SampleKey, addressed_generator
from tlab.finetuning.features import fingerprint
from tlab.finetuning.features.image_view import ImageView
from tlab.models.classifier import POOL, Classifier, digest
from tlab.models.logistic_regression import cross_validated_loss

log = logging.getLogger(__name__)

T = TypeVar("T")

BATCH = 64  # images that are normalized together, whatever the batch size of training
TRIAL = 1_000  # images at most on which the two kinds of statistics are compared
EQUAL = 1.1  # ratio of losses up to which two kinds of statistics tell the classes equally well
FIXED, ESTIMATED = "fixed", "estimated"


def estimate_batchnorm(
    net: Classifier, data: ImageDataModule, device: torch.device, name: str, known_as: str | None
) -> None:
    """Set the statistics of all BatchNorm layers of a pretrained backbone to those of the training images.

    AdaBN (Li et al. 2017, "Revisiting Batch Normalization for Practical Domain Adaptation", arXiv:1603.04779).

    Args:
        net: The network, changed in place.
        data: Its data, set up.
        device: Device that computes.
        name: Name of the backbone, for the error message.
        known_as: What `statistics_digest` returns.

    Raises:
        UserError: The backbone has no BatchNorm.
    """
    layers = batchnorm_layers(net.backbone)
    if not layers:
        raise UserError(
            f"finetune.batchnorm=estimated needs BatchNorm, which {name} has nowhere; leave it out, or give "
            "backbone=resnet18"
        )
    began = time.perf_counter()
    statistics = from_first_process(_stored_statistics, net, data, device, [*layers], known_as)
    net.load_state_dict({**net.state_dict(), **statistics})
    log.info(
        "statistics of %s estimated on %s (%.1f s)",
        *(counted(layers, "BatchNorm layer"), counted(data.samples("train"), "training image")),
        time.perf_counter() - began,
    )


def choose_batchnorm(net: Classifier, data: ImageDataModule, device: torch.device, known_as: str | None) -> str:
    """Return the statistics whose features tell the classes better: `estimated`, or `fixed` for the weights' own.

    Both are tried on the training images, at most `TRIAL` of them, by the cross-validated loss of a linear layer on
    the pooled features. Images like those of the pretraining are served by its statistics, which come from very
    many; other images, or another size of them, by their own. So near ones count as equal, and then the estimated
    ones are taken: fine-tuning goes on from them, since they are what its batches are normalized by.

    Args:
        net: The network; left as it is.
        data: Its data, set up.
        device: Device that computes.
        known_as: What `statistics_digest` returns.
    """
    losses = remembered("batchnorm", known_as, lambda: _on_device(device, net, _trial, data))
    best = ESTIMATED if losses[ESTIMATED] <= EQUAL * losses[FIXED] else FIXED
    log.info(
        "finetune.batchnorm=auto takes %s: cross-validated loss %.3f with the statistics of the weights, %.3f with "
        "those of the training images",
        *(best, losses[FIXED], losses[ESTIMATED]),
    )
    return best


def _trial(net: Classifier, data: ImageDataModule) -> dict[str, float]:
    """Return the cross-validated loss with either kind of statistics."""
    mode = net.training
    net.eval()
    losses = {FIXED: held_out_loss(net, data)}
    estimated = training_statistics(net, data, [*batchnorm_layers(net.backbone)], TRIAL)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items() if name in estimated}
    net.load_state_dict({**net.state_dict(), **estimated})
    losses[ESTIMATED] = held_out_loss(net, data)
    net.load_state_dict({**net.state_dict(), **before})
    net.train(mode)
    return losses


def held_out_loss(net: Classifier, data: ImageDataModule) -> float:
    """Return the cross-validated loss of a linear layer on pooled features of at most `TRIAL` training images.

    Args:
        net: The network, in evaluation mode.
        data: Its data, set up.
    """
    features, labels = [], []
    device = next(net.parameters()).device
    with torch.inference_mode():
        for batch in _mixed_batches(data, TRIAL):
            x = batch.image.to(device).contiguous(memory_format=torch.channels_last)
            features.append(net.prefix(x, POOL).float().cpu().numpy())
            labels.append(batch.label.numpy())
    return cross_validated_loss(np.concatenate(features), np.concatenate(labels), data.num_classes)


def statistics_digest(net: Classifier, data: ImageDataModule) -> str | None:
    """Return a digest of all that statistics and `held_out_loss` depend on.

    None where the images' transform cannot be pickled.
    """
    view = ImageView.plain(data, "train")
    if view is None:
        return None
    parts = {
        **view.recipe,
        "labels": [data.num_classes, *(sample.label for sample in view.images.samples)],
        "network": net.backbone.variant,
        "stages": {name: digest(stage) for name, stage in net.backbone.stages.items()},
        "pooling": [net.head.pooling, net.head.prefix_tokens],
        "normalize": [net.normalize.mean.flatten().tolist(), net.normalize.std.flatten().tolist()],
        "code": fingerprint.of_code(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _stored_statistics(
    net: Classifier, data: ImageDataModule, device: torch.device, layers: Collection[str], known_as: str | None
) -> dict[str, Tensor]:
    """Return `training_statistics`, from the cache directory if they are there."""
    file = cache_dir() / "features" / f"{known_as}.npy"
    names = [f"backbone.{layer}.{kind}" for layer in layers for kind in ("running_mean", "running_var")]
    sizes = [net.get_buffer(each).numel() for each in names]
    if known_as:
        with suppress(OSError, ValueError):  # missing or damaged: estimated again
            values = torch.from_numpy(np.load(file)).split(sizes)
            return dict(zip(names, values, strict=True))
    found = _on_device(device, net, training_statistics, data, layers)
    if known_as:
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(file) as path, path.open("wb") as stream:
                np.save(stream, torch.cat([found[each] for each in names]).numpy())
    return found


def _on_device(device: torch.device, net: Classifier, compute: Callable[..., T], *arguments: Any) -> T:
    try:
        return compute(net.to(device), *arguments)
    finally:
        net.cpu()


def batchnorm_layers(module: nn.Module) -> dict[str, _BatchNorm]:
    """Return name -> layer of each BatchNorm that has running statistics."""
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)}
    return {name: layer for name, layer in layers.items() if layer.running_mean is not None}


def training_statistics(
    net: Classifier, data: ImageDataModule, layers: Collection[str], most: int | None = None
) -> dict[str, Tensor]:
    """Return mean and variance of what each of some BatchNorm layers gets, over the training images.

    The images are those that evaluation sees, since it is evaluation that uses the statistics, and since they then
    depend on no epoch's augmentation. As in `torch.optim.swa_utils.update_bn`, each layer normalizes by its batch
    on the way; batches are mixed, of about equal size, and the same for any seed and batch size of training.

    Args:
        net: The network; left as it is.
        data: Its data, set up.
        layers: Names of the layers below `net.backbone`.
        most: Number of images at most; None: all.

    Returns:
        `backbone.<layer>.running_mean` and `backbone.<layer>.running_var`: `C`, float32, on the CPU.
    """
    device = next(net.parameters()).device
    before = {name: tensor.clone() for name, tensor in net.named_buffers()}
    modes = {module: module.training for module in net.modules()}
    chosen = {name: net.backbone.get_submodule(name) for name in layers}
    sums = {name: _Moments() for name in chosen}
    hooks = [layer.register_forward_pre_hook(sums[name].add) for name, layer in chosen.items()]
    try:
        net.eval()
        for layer in chosen.values():
            layer.training = True
        with torch.no_grad():
            for batch in _mixed_batches(data, most):
                net.prefix(batch.image.to(device).contiguous(memory_format=torch.channels_last), POOL)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
        for name, buffer in net.named_buffers():
            buffer.copy_(before[name])
    return {f"backbone.{name}.{statistic}": value for name in sums for statistic, value in sums[name].statistics()}


def _mixed_batches(data: ImageDataModule, most: int | None) -> Iterator[Batch]:
    """Return training images as evaluation sees them, mixed over the classes, in batches of about `BATCH`."""
    samples = data.samples("train")
    order = torch.randperm(len(samples), generator=addressed_generator("batchnorm"))[:most].tolist()
    keys = [SampleKey(0, index) for index in order]
    batches = -(-len(keys) // BATCH)
    yield from make_loader(data.images(samples), keys, -(-len(keys) // batches), data.num_workers)


class _Moments:
    """Mean and variance per channel of all inputs of a layer, added up in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Add an input: `B C ...`."""
        (x,) = inputs
        dims = [dim for dim in range(x.ndim) if dim != 1]
        variance, mean = (each.double() for each in torch.var_mean(x.float(), dims, correction=0))
        count = x.numel() // x.shape[1]
        self.count += count
        self.total = self.total + count * mean
        self.squares = self.squares + count * (variance + mean.square())

    def statistics(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of both, the variance unbiased as BatchNorm keeps it."""
        mean = torch.as_tensor(self.total).cpu() / self.count
        variance = (torch.as_tensor(self.squares).cpu() / self.count - mean.square()).clamp(min=0)
        yield "running_mean", mean.float()
        yield "running_var", (variance * self.count / max(1, self.count - 1)).float()
