"""A training step with and without torch.compile, in turns: speeds, seconds of compiling, and where it pays.

    python benchmarks/compile.py --case resnet18,224,32-true --case resnet50,224,bf16-mixed

On an empty cache: forward and backward pass of the whole network (all trains, no optimiser), the fastest of a few
rounds. `again` is what compiling takes where the cache directory has the graph. `pays from` is the number of
images, epochs times images of an epoch, from which compiling saves more seconds than it takes the first time.
"""

import argparse
import os
import tempfile
import time
from typing import TYPE_CHECKING

from tlab.core.hardware import limit_threads

if TYPE_CHECKING:  # torch is imported when it has its threads
    from torch import Tensor

    from tlab.models.classifier import Classifier

CASES = ("resnet18,224,32-true", "resnet18,64,32-true", "mobilenet_v3_small,64,32-true", "resnet50,224,bf16-mixed")
ROUNDS = 5  # at least, unless they take longer than BUDGET
LEAST = 5.0  # seconds of timing: what else the machine does comes and goes
BUDGET = 20.0  # seconds after which no further round is timed


def main() -> None:
    """Time each case and print a row for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    case = "torchvision model, pixels, precision; may be given several times"
    parser.add_argument("--case", action="append", help=case)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--accelerator", default="auto", help="cpu, cuda or auto, %(default)s")
    args = parser.parse_args()

    limit_threads()  # before what follows imports torch
    import torch

    from tlab.models.autotune.precision import allow_tf32, find_accelerator
    from tlab.models.backbones import build_backbone
    from tlab.models.classifier import Classifier
    from tlab.models.head import Head
    from tlab.models.stages import IMAGENET_MEAN, IMAGENET_STD

    print(f"{'':36}{'eager':>9}{'compiled':>10}{'ratio':>7}{'compiling':>11}{'again':>8}{'pays from':>13}")
    for name, pixels, precision in (case.split(",") for case in args.case or CASES):
        if precision != "32-true":
            allow_tf32()
        backbone = build_backbone(name, weights=None, image_size=int(pixels))
        net = Classifier(backbone, Head(backbone.feature_dim, 10), IMAGENET_MEAN, IMAGENET_STD)
        device = find_accelerator(args.accelerator)
        net.train().to(device).to(memory_format=torch.channels_last)
        x = torch.zeros(args.batch_size, 3, int(pixels), int(pixels), dtype=torch.uint8)
        with tempfile.TemporaryDirectory() as empty:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
            seconds = try_out(net, x.to(device, memory_format=torch.channels_last), precision)
        eager, compiled, cold, warm = seconds
        pays = f"{args.batch_size * cold / (eager - compiled):,.0f}" if compiled < eager else "never"
        print(
            f"{name + ' ' + pixels + ' px ' + precision:36}{args.batch_size / eager:>9.1f}"
            f"{args.batch_size / compiled:>10.1f}{eager / compiled:>7.2f}{cold:>9.0f} s{warm:>6.0f} s{pays:>13}",
            flush=True,
        )


def try_out(net: "Classifier", x: "Tensor", precision: str) -> tuple[float, float, float, float]:
    """Return the seconds of a step without and with a compiler, and those of compiling at first and again."""
    import torch

    from tlab.models.autotune.compiled import compiler
    from tlab.models.autotune.precision import timed_step

    run = compiler()
    eager = min(timed_step(net, x, "", precision) for _ in range(2))
    cold = timed_step(net, x, "", precision, run)
    torch._dynamo.reset()
    warm = timed_step(net, x, "", precision, run)
    compiled = timed_step(net, x, "", precision, run)
    started, rounds = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < LEAST or (rounds < ROUNDS and elapsed < BUDGET):
        eager = min(eager, timed_step(net, x, "", precision))
        compiled = min(compiled, timed_step(net, x, "", precision, run))
        rounds += 1
    torch._dynamo.reset()  # lets go of the network
    return eager, compiled, max(0.0, cold - compiled), max(0.0, warm - compiled)


if __name__ == "__main__":
    main()
