"""Data-parallel training that averages gradients and running statistics over the processes, whatever trains."""

import gc
import hashlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from tlab.core.errors import UserError
from tlab.core.processes import from_all_processes
from tlab.data.sources.folder import ImageIndex

# torch's switch for copying buffers in every forward pass; its old name is deprecated where there is the new one
_NAMES = inspect.signature(DistributedDataParallel).parameters
BUFFERS_IN_FORWARD = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in _NAMES)

# Packages whose buffers are constants, or are looked after
KNOWN = ("tlab", "torch", "torchvision", "timm", "torchmetrics", "lightning")


class PhasedDDP(DDPStrategy):
    """Data-parallel training (Li et al. 2020, "PyTorch Distributed") of a network whose phases train other parts.

    torch's wrapper records which parameters train when it is made: the gradient of one that is unfrozen later would
    not be averaged, and that of one frozen later would be waited for. `rewrap` makes it again.

    The running statistics of BatchNorm are averaged over the processes after every backward pass, where torch would
    copy the first process's before every forward pass. So they describe the global batch (its variance less the
    differences of the means), the processes are equal at every step, also for a checkpoint inside an epoch, and no
    forward pass waits for another process, which may have fewer batches to validate. So are the statistics that
    a user's own loss or layer keeps in buffers; whole numbers there are the first process's, as torch has them.
    """

    def __init__(self) -> None:
        options: dict[str, Any] = {BUFFERS_IN_FORWARD: False}
        super().__init__(cluster_environment=TorchElasticEnvironment(), **options)
        self._wrapped: set[int] = set()  # id of each parameter whose gradient is averaged

    def configure_ddp(self) -> None:
        """Wrap the module for what trains now."""
        self._wrapped = self._trained()
        super().configure_ddp()

    def rewrap(self) -> None:
        """Wrap the module again if what trains has changed; before the fit there is nothing to do."""
        if not isinstance(self.model, DistributedDataParallel) or self._wrapped == self._trained():
            return
        self.model = self.lightning_module
        gc.collect()  # the old wrapper removes its hooks from the parameters when it is collected
        self.configure_ddp()

    def post_backward(self, closure_loss: Tensor) -> None:
        """Average the running statistics; not earlier, since the backward pass reads them."""
        super().post_backward(closure_loss)
        assert self.lightning_module is not None
        average(list(running_statistics(self.lightning_module)))
        agree(list(buffers_of_own(self.lightning_module)))

    def _trained(self) -> set[int]:
        assert self.lightning_module is not None
        return {id(parameter) for parameter in self.lightning_module.parameters() if parameter.requires_grad}


def running_statistics(module: torch.nn.Module) -> Iterator[Tensor]:
    """Yield mean and variance of each BatchNorm that is in training mode and does not average by itself."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) and not isinstance(layer, SyncBatchNorm) and layer.training:
            for statistic in (layer.running_mean, layer.running_var):
                if statistic is not None:
                    yield statistic


def buffers_of_own(module: torch.nn.Module) -> Iterator[Tensor]:
    """Yield the buffers of each module in training mode whose class is a user's, such as a loss with statistics."""
    for layer in module.modules():
        if layer.training and type(layer).__module__.partition(".")[0] not in KNOWN:
            yield from layer.buffers(recurse=False)


@torch.no_grad()
def agree(tensors: list[Tensor]) -> None:
    """Make each tensor the same in all processes, in place: the mean of numbers with fractions, else the first's.

    What is the same already stays the same, bit by bit.
    """
    for tensor in tensors:
        first = tensor.contiguous().clone()
        distributed.broadcast(first, 0)
        if tensor.is_floating_point():
            difference = tensor - first
            distributed.all_reduce(difference)
            first += difference / distributed.get_world_size()
        tensor.copy_(first)


@torch.no_grad()
def average(tensors: list[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in place and in one exchange."""
    if not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def verify_equal(digests: Mapping[str, str], when: str) -> None:
    """Compare digests of the groups over the processes; with one process there is nothing to compare.

    Args:
        digests: Group -> digest of its parameters and buffers in this process.
        when: Moment for the message, such as "after phase head".

    Raises:
        RuntimeError: The processes differ; raised in each of them.
    """
    everyone = from_all_processes(dict(digests))
    for rank, theirs in enumerate(everyone):
        if differing := [name for name, digest in everyone[0].items() if theirs.get(name) != digest]:
            raise RuntimeError(f"process {rank} differs from process 0 in {', '.join(differing)} {when}")


def verify_same_images(index: ImageIndex) -> None:
    """Compare the processes' images; with different numbers of batches they would wait for each other forever.

    Raises:
        UserError: A process has other images than the first one; raised in each of them.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    digests, folder = {}, f"{index.root}/"
    for split, samples in index.splits.items():
        lines = (f"{label} {file.removeprefix(folder)}\n" for file, label in samples)
        digest = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape"))
        digests[split] = f"{len(samples)} ({digest.hexdigest()[:8]})"
    texts = from_all_processes(", ".join(f"{split} {digest}" for split, digest in digests.items()))
    for rank, text in enumerate(texts):
        if text != texts[0]:
            raise UserError(
                f"data.root={index.root}: process {rank} has other images ({text}) than process 0 ({texts[0]}); "
                "let all of them read the same files, and give the command again"
            )
