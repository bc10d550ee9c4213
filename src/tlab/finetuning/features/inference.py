"""Fast inference of the stages that do not train."""

import copy
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tlab.core.hardware import cpus_per_process, single_threaded, thread_pool
from tlab.models.autotune.precision import autocast
from tlab.models.classifier import Classifier

CHUNK = 8  # images at once on a core of a CPU: with more, the stages' output no longer fits into its caches
AHEAD = 4  # chunks under way for each core
CLOSE = 0.05  # relative difference that rounding to bf16 may make; a pair that must not be folded makes one of 1


def run_prefix(
    net: Classifier,
    chunks: Iterable[Callable[[], Tensor]],
    upto: str,
    after: str,
    precision: str,
    memory_format: torch.memory_format,
) -> Iterator[Tensor]:
    """Yield what `net.prefix` returns for each chunk of images, in order.

    On a CPU each core takes chunks of its own and makes their images itself: a core that waits for the others at
    every layer, or for those that decode, loses time. For bf16 the stages are copied: each BatchNorm is folded into
    the convolution before it (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", section 3.2), and weights are cast once, where autocast would cast them for
    every batch. In fp32 the results are those of the network.

    Args:
        net: The network, frozen up to `upto`.
        chunks: Functions that return images `B C H W`, or the output of the stage `after` for them; on a CPU they
            return at most `CHUNK` images and are called in threads.
        upto: See `Classifier.prefix`.
        after: See `Classifier.prefix`.
        precision: `32-true`, `bf16-mixed` or `16-mixed`.
        memory_format: Memory format of maps.
    """
    device = next(net.parameters()).device

    def forward(net: Classifier, chunk: Callable[[], Tensor]) -> Tensor:
        x = chunk().to(device)
        with torch.inference_mode(), autocast(device, precision):
            return net.prefix(x.contiguous(memory_format=memory_format) if x.ndim == 4 else x, upto, after)

    if device.type != "cpu":
        yield from (forward(net, chunk) for chunk in chunks)
        return
    with single_threaded(), thread_pool(cpus_per_process()) as pool:
        chunks = iter(chunks)
        if precision == "bf16-mixed" and (first := next(chunks, None)) is not None:
            images = first()
            net = _for_bf16(net, lambda net: forward(net, lambda: images[:1]))
            chunks = itertools.chain([lambda: images], chunks)
        outputs: deque[Future[Tensor]] = deque()
        for chunk in chunks:
            outputs.append(pool.submit(forward, net, chunk))
            if len(outputs) > AHEAD * cpus_per_process():
                yield outputs.popleft().result()
        while outputs:
            yield outputs.popleft().result()


def chunks_of(rows: range, size: int, cores: int) -> Iterator[range]:
    """Yield the rows in chunks of at most `size`, smaller ones at the end, so that all cores are done together."""
    start = 0
    while left := len(rows) - start:
        stop = start + min(size, left, max(2, -(-left // (2 * cores))) if cores > 1 else left)
        yield rows[start:stop]
        start = stop


def _for_bf16(net: Classifier, run: Callable[[Classifier], Tensor]) -> Classifier:
    """Return a copy with BatchNorm folded into convolutions, and bf16 weights where autocast would cast them.

    Where `run`, which calls a network on an image, gives something else with the copy: the network itself.
    """
    quick = copy.deepcopy(net)
    y, pairs = _conv_and_norm(net, run)
    for conv, norm in pairs:
        folded = fuse_conv_bn_eval(quick.get_submodule(conv), quick.get_submodule(norm))  # type: ignore[type-var,arg-type]
        quick.set_submodule(conv, folded)
        quick.set_submodule(norm, nn.Identity())
    for module in quick.modules():
        if type(module) in (nn.Conv2d, nn.Linear):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.bfloat16()
    difference = (run(quick).float() - y.float()).norm()
    return quick if difference <= CLOSE * y.float().norm() else net


def _conv_and_norm(net: Classifier, run: Callable[[Classifier], Tensor]) -> tuple[Tensor, list[tuple[str, str]]]:
    """Return the output of `run`, and the names of each convolution and the BatchNorm that takes its output."""
    made: dict[
        int, tuple[nn.Module, Tensor]
    ] = {}  # id of an output -> who made it; kept, so that no id comes twice
    calls: Counter[nn.Module] = Counter()
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] += 1
        if type(module) is nn.Conv2d:
            made[id(output)] = module, output
        elif type(module) is nn.BatchNorm2d and id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module))

    with register_module_forward_hook(note):
        y = run(net)
    names = {module: name for name, module in net.named_modules()}
    fixed = {module for module in names if calls[module] == 1 and not module.training}
    return y, [(names[conv], names[norm]) for conv, norm in pairs if {conv, norm} <= fixed]
