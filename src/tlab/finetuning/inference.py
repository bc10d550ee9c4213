"""Stages that do not train, run as fast as the device can."""

import copy
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor, nn

from tlab.cores import share_of_cores
from tlab.models.classifier import Classifier
from tlab.models.precision import autocast

CHUNK = 8  # images at once on a core: with more, what the stages pass on no longer fits into its caches
AHEAD = 2  # batches under way


def run_prefix(
    net: Classifier,
    batches: Iterable[Tensor],
    upto: str,
    after: str,
    precision: str,
    memory_format: torch.memory_format,
) -> Iterator[Tensor]:
    """Yield what `net.prefix` returns for each batch, in order.

    On a CPU each core takes images of its own, since one that waits for the others at every layer loses time to
    whatever else runs there, for instance the processes that decode. For bf16 the weights are cast once, where
    autocast would cast them for every batch; the results are the same bits, which is checked on the first images.

    Args:
        net: frozen up to `upto`.
        batches: images `B C H W`, or what the stage `after` returned.
        upto: see `Classifier.prefix`.
        after: see `Classifier.prefix`.
        precision: `32-true`, `bf16-mixed` or `16-mixed`.
        memory_format: of maps.
    """
    device = next(net.parameters()).device

    def forward(net: Classifier, x: Tensor) -> Tensor:
        x = x.to(device)
        with torch.inference_mode(), autocast(device, precision):
            return net.prefix(x.contiguous(memory_format=memory_format) if x.ndim == 4 else x, upto, after)

    if device.type != "cpu":
        yield from (forward(net, batch) for batch in batches)
        return
    images = iter(batches)
    first = next(images, None)
    if first is None:
        return
    if precision == "bf16-mixed":
        lowered, few = _with_low_weights(net), first[:CHUNK]
        net = lowered if forward(lowered, few).equal(forward(net, few)) else net
    yield from _on_each_core(itertools.chain([first], images), lambda x: forward(net, x))


def _with_low_weights(net: Classifier) -> Classifier:
    """Return a copy whose plain convolutions and linear layers have bf16 weights, as autocast would cast them."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if type(module) in (nn.Conv2d, nn.Linear):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.bfloat16()
    return net


def _on_each_core(batches: Iterable[Tensor], forward: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    """Yield `forward` of each batch, whose images are shared out to the cores."""
    threads = torch.get_num_threads()
    under_way: deque[list[Future[Tensor]]] = deque()
    try:
        with ThreadPoolExecutor(share_of_cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for batch in batches:
                under_way.append([pool.submit(forward, chunk) for chunk in batch.split(CHUNK)])
                if len(under_way) > AHEAD:
                    yield torch.cat([chunk.result() for chunk in under_way.popleft()])
            for chunks in under_way:
                yield torch.cat([chunk.result() for chunk in chunks])
    finally:
        torch.set_num_threads(threads)  # parts of torch have one number for all threads
