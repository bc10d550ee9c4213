"""Estimation of BatchNorm's statistics on the training images."""

import logging
import time
from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tlab.core.errors import UserError
from tlab.core.processes import from_first_process
from tlab.data.datamodule import ImageDataModule
from tlab.data.loader import make_loader
from tlab.data.sampler import SampleKey, addressed_generator
from tlab.models.classifier import POOL, Classifier

log = logging.getLogger(__name__)

BATCH = 64  # images that are normalized together, whatever the batch size of training


def estimate_batchnorm(net: Classifier, data: ImageDataModule, device: torch.device, name: str) -> None:
    """Set the statistics of all BatchNorm layers of a pretrained backbone to those of the training images.

    AdaBN (Li et al. 2017, "Revisiting Batch Normalization for Practical Domain Adaptation", arXiv:1603.04779).

    Args:
        net: The network, changed in place.
        data: Its data, set up.
        device: Device that computes.
        name: Name of the backbone, for the error message.

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
    statistics = from_first_process(_on_device, device, net, data, [*layers])
    net.load_state_dict({**net.state_dict(), **statistics})
    log.info(
        "statistics of %d BatchNorm layers estimated on %d training images (%.1f s)",
        *(len(layers), len(data.samples("train")), time.perf_counter() - began),
    )


def _on_device(
    device: torch.device, net: Classifier, data: ImageDataModule, layers: Collection[str]
) -> dict[str, Tensor]:
    try:
        return training_statistics(net.to(device), data, layers)
    finally:
        net.cpu()


def batchnorm_layers(module: nn.Module) -> dict[str, _BatchNorm]:
    """Return name -> layer of each BatchNorm that has running statistics."""
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)}
    return {name: layer for name, layer in layers.items() if layer.running_mean is not None}


def training_statistics(net: Classifier, data: ImageDataModule, layers: Collection[str]) -> dict[str, Tensor]:
    """Return mean and variance of what each of some BatchNorm layers gets, over all training images.

    The images are those that evaluation sees, since it is evaluation that uses the statistics, and since they then
    depend on no epoch's augmentation. As in `torch.optim.swa_utils.update_bn`, each layer normalizes by its batch
    on the way; batches are mixed, of about equal size, and the same for any seed and batch size of training.

    Args:
        net: The network; left as it is.
        data: Its data, set up.
        layers: Names of the layers below `net.backbone`.

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
            for x in _mixed_batches(data):
                net.prefix(x.to(device).contiguous(memory_format=torch.channels_last), POOL)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
        for name, buffer in net.named_buffers():
            buffer.copy_(before[name])
    return {f"backbone.{name}.{statistic}": value for name in sums for statistic, value in sums[name].statistics()}


def _mixed_batches(data: ImageDataModule) -> Iterable[Tensor]:
    """Yield the training images as evaluation sees them, mixed over the classes: uint8 `B 3 S S`."""
    samples = data.samples("train")
    order = torch.randperm(len(samples), generator=addressed_generator("batchnorm")).tolist()
    batches = -(-len(samples) // BATCH)
    keys = [SampleKey(0, index) for index in order]
    for batch in make_loader(data.images(samples), keys, -(-len(keys) // batches), data.num_workers):
        yield batch.image


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
