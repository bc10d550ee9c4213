"""How the images reach the GPU: each way of it against the network alone on images that are there already.

    python benchmarks/gpu_input.py --root DATA                  # DATA holds train/<class>/ and val/<class>/
    python benchmarks/gpu_input.py --root DATA --arch resnet50 --aug strong --batch-size 256

Images per second of training steps (bf16, channels last, fused SGD), by tlab's own loaders:
    limit          one batch that stays on the GPU
    plain          images are augmented on the CPU, and copied on the stream that computes
    ahead          ... and copied on a stream of their own, one batch ahead (what tlab does on a GPU)
    device         drawn on the CPU, augmented on the GPU (data.augment_on=device)
    files          as `ahead`, but decoded anew in every epoch (data.store=off)
    device_files   as `device`, but decoded anew in every epoch
    nvjpeg         ... on the GPU (data.decode_on=device)
The first four read decoded images from tlab's store. All take turns within a round, in another order in the next
one; medians, and the ratio to the limit of the same round. Without a GPU it runs on the CPU, which says nothing but
that it runs.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.optim import SGD
from torchvision import models

from tlab.command import compose
from tlab.data.datamodule import ImageDataModule
from tlab.data.dataset import Batch
from tlab.data.loader import Loader
from tlab.data.transfer import on_device

Step = Callable[[Tensor, Tensor], None]


class Way(NamedTuple):
    """How images come: see the settings of the same names."""

    ahead: bool = True
    draws: bool = False
    store: str = "on"
    decode_on: str = "cpu"


WAYS = {
    "plain": Way(ahead=False),
    "ahead": Way(),
    "device": Way(draws=True),
    "files": Way(store="off"),
    "device_files": Way(draws=True, store="off"),
    "nvjpeg": Way(draws=True, store="off", decode_on="device"),
}


def training_step(arch: str, device: torch.device) -> Step:
    """Return a training step on uint8 images `B 3 S S` and their labels, both on the device."""
    model = models.get_model(arch, weights=None).to(device, memory_format=torch.channels_last)
    optimizer = SGD(model.train().parameters(), lr=1e-4, momentum=0.9, fused=True)

    def step(x_BCHW: Tensor, y_B: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last).float() / 255
            loss = nn.functional.cross_entropy(model(x_BCHW), y_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def loader_of(way: Way, args: argparse.Namespace, device: torch.device) -> Loader:
    """Return the training loader."""
    options = [f"aug={args.aug}", f"data.image_size={args.image_size}", f"data.batch_size={args.batch_size}"]
    options += [f"data.root='{args.root}'", f"data.store={way.store}", f"data.decode_on={way.decode_on}"]
    options += [f"data.num_workers={args.num_workers}"] if args.num_workers is not None else []
    data: ImageDataModule = instantiate(compose(options).data.module)
    data.setup()
    if (images := len(data.index.splits["train"])) < args.batch_size:
        raise SystemExit(f"--batch-size {args.batch_size}: there are only {images} training images")
    data.keep_decoded(1000)
    loader = data.train_dataloader()
    loader.device = device if way.ahead else None
    loader.draws = way.draws
    return loader


def batches(loader: Loader, device: torch.device) -> Iterator[Batch]:
    """Yield whole batches on the device, epoch after epoch."""
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            if len(batch.image) == loader.batch_size:
                yield on_device(batch, device)
        epoch += 1


def speed(step: Step, source: Iterator[Batch], steps: int, device: torch.device) -> float:
    """Return images per second over so many steps."""
    done = 0
    synchronize(device)
    start = time.perf_counter()
    for batch in islice(source, steps):
        step(batch.image, batch.label)
        done += len(batch.image)
    synchronize(device)
    return done / (time.perf_counter() - start)


def synchronize(device: torch.device) -> None:
    """Wait until the GPU has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, list[float]]:
    """Return images per second of each way, and of the limit, for each round."""
    loaders = {name: loader_of(WAYS[name], args, device) for name in args.ways}
    sources = {name: batches(loader, device) for name, loader in loaders.items()}
    first = next(batches(next(iter(loaders.values())), device))
    sources = {"limit": iter(lambda: first, None), **sources}
    step = training_step(args.arch, device)
    for source in sources.values():  # starts the workers, chooses kernels, takes memory
        speed(step, source, args.warm_up, device)
    found: dict[str, list[float]] = {name: [] for name in sources}
    for round_ in range(args.rounds):
        order = list(sources)[round_ % len(sources) :] + list(sources)[: round_ % len(sources)]
        for name in order:
            found[name].append(speed(step, sources[name], args.steps, device))
    return found


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds train/ and val/")
    parser.add_argument("--arch", default="resnet18", help="torchvision model, %(default)s")
    parser.add_argument("--aug", default="light", help="light, strong or another of conf/aug, %(default)s")
    parser.add_argument("--image-size", type=int, default=224, help="pixels, %(default)s")
    parser.add_argument("--batch-size", type=int, default=128, help="%(default)s, at most the training images")
    parser.add_argument("--num-workers", type=int, help="processes; as many as tlab takes")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="only these")
    parser.add_argument("--steps", type=int, default=50, help="per way and round, %(default)s")
    parser.add_argument("--warm-up", type=int, default=10, help="steps that do not count, %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write all figures")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure and print."""
    args = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32, which is what tlab uses there
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TLAB_CACHE"] = cache
        found = measure(args, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, {args.arch}, aug={args.aug}, {args.image_size} px, batch {args.batch_size}; images per second")
    for way, values in found.items():
        ratios = [value / limit for value, limit in zip(values, found["limit"], strict=True)]
        spread = f"{statistics.median(ratios):.2f} of the limit ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{way:13s} {statistics.median(values):8.0f}   {spread}")
    if args.json is not None:
        args.json.write_text(json.dumps({"device": name, "args": vars(args), **found}, default=str) + "\n")


if __name__ == "__main__":
    main()
