"""A training step with and without torch.compile, in turns: speeds, seconds of compiling, and where it pays.

    python benchmarks/compile.py --case resnet18,224,32-true --case resnet50,224,bf16-mixed

It is the trial that `trainer.compile=auto` makes, on an empty cache: forward and backward pass of the whole network
(all trains, no optimiser), the fastest of a few rounds. `again` is what compiling takes where the cache directory
has the graph. `pays from` is the number of images, epochs times images of an epoch, from which compiling saves more
seconds than it takes the first time.
"""

import argparse
import os
import tempfile
from typing import cast

from tlab.cores import limit_threads

CASES = ("resnet18,224,32-true", "resnet18,64,32-true", "mobilenet_v3_small,64,32-true", "resnet50,224,bf16-mixed")


def main() -> None:
    """Time each case and print a row for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    case = "torchvision model, pixels, precision; may be given several times"
    parser.add_argument("--case", action="append", help=case)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--accelerator", default="auto", help="cpu, cuda or auto, %(default)s")
    args = parser.parse_args()

    limit_threads()  # before what follows imports torch
    from tlab.models.backbones import build_backbone
    from tlab.models.classifier import Classifier
    from tlab.models.compile_trial import Setting, try_out
    from tlab.models.head import Head
    from tlab.models.precision import Precision, allow_tf32, find_accelerator
    from tlab.models.stages import IMAGENET_MEAN, IMAGENET_STD

    print(f"{'':36}{'eager':>9}{'compiled':>10}{'ratio':>7}{'compiling':>11}{'again':>8}{'pays from':>13}")
    for name, pixels, precision in (case.split(",") for case in args.case or CASES):
        if precision != "32-true":
            allow_tf32()
        backbone = build_backbone(name, weights=None, image_size=int(pixels))
        net = Classifier(backbone, Head(backbone.feature_dim, 10), IMAGENET_MEAN, IMAGENET_STD)
        accelerator = find_accelerator(args.accelerator)
        kind = cast("Precision", precision)
        setting = Setting(name, int(pixels), args.batch_size, accelerator, kind, channels_last=True)
        with tempfile.TemporaryDirectory() as empty:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
            trial = try_out(net, setting)
        eager, compiled = trial.eager, trial.compiled
        pays = f"{trial.seconds / (1 / eager - 1 / compiled):,.0f}" if compiled > eager else "never"
        print(
            f"{name + ' ' + pixels + ' px ' + precision:36}{eager:>9.1f}{compiled:>10.1f}{compiled / eager:>7.2f}"
            f"{trial.seconds:>9.0f} s{trial.again:>6.0f} s{pays:>13}",
            flush=True,
        )


if __name__ == "__main__":
    main()
