"""Images per second of processor time: torchvision's ImageFolder, tlab from files, and tlab from its store.

    python benchmarks/pipeline.py --root DIR        # DIR holds train/<class>/ and val/<class>/ with photographs

All three apply the chain of conf/aug/strong.yaml and give uint8 tensors 3 S S:
    imagefolder   ImageFolder with Pillow images and torchvision's transforms of the same names and strengths
    files         tlab from the files
    store         tlab from the decoded images on disk (data.store=on)
They take turns, image set by image set; medians, and ratios within each turn. Then the mean and the spread of the
augmented pixels are compared, which should agree but for what `tlab.data.augment.color.ColorJitter` says.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch
from hydra.utils import instantiate
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from tlab.config.hydra import compose
from tlab.data.augment.evaluation import evaluation_transform
from tlab.data.image_batches import ImageBatches
from tlab.data.sampler import SampleKey
from tlab.data.sources.folder import folder_index

FILL = [124, 116, 104]
NAMES = ("imagefolder", "files", "store")


def torchvision_strong(image_size: int) -> v2.Compose:
    """Return the steps of conf/aug/strong.yaml from torchvision: on Pillow images as long as they can be."""
    noise = [
        v2.ToDtype(torch.float32, scale=True),
        v2.GaussianNoise(sigma=0.03),
        v2.ToDtype(torch.uint8, scale=True),
    ]
    return v2.Compose(
        [
            v2.RandomResizedCrop(image_size, scale=(0.3, 1.0), ratio=(0.75, 1.3333)),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomAffine(15, shear=8, interpolation=v2.InterpolationMode.BILINEAR, fill=FILL),
            v2.ColorJitter(0.3, 0.3, 0.3),
            v2.RandomApply([v2.ColorJitter(hue=0.05)], p=0.3),
            v2.PILToTensor(),
            v2.RandomApply(noise, p=0.3),
            v2.RandomErasing(0.25, scale=(0.02, 0.2), ratio=(0.3, 3.3), value=FILL),
        ]
    )


def tlab_dataset(root: Path, image_size: int, store: str) -> ImageBatches:
    """Return the training images with `aug=strong`, from the files or from a store."""
    cfg = compose(["aug=strong", f"data.image_size={image_size}", f"data.root='{root}'"])
    dataset = ImageBatches(
        folder_index(root).splits["train"],
        finish=evaluation_transform(image_size),
        image_size=image_size,
        augment=instantiate(cfg.aug.transforms, _convert_="all"),
    )
    dataset.keep_decoded(store, 100)
    return dataset


def rates(sources: dict[str, Callable[[int, int], Tensor]], images: int, rounds: int) -> dict[str, list[float]]:
    """Return images per second of each source, for each round; they take turns in pieces of 20 images."""
    seconds: dict[str, list[float]] = {name: [0.0] * rounds for name in sources}
    for turn in range(rounds):
        for start in range(0, images, 20):
            for name, source in sources.items():
                begin = time.process_time()
                for index in range(start, min(start + 20, images)):
                    source(turn, index)
                seconds[name][turn] += time.process_time() - begin
    return {name: [images / s for s in values] for name, values in seconds.items()}


def moments(source: Callable[[int, int], Tensor], images: int, epochs: int) -> list[float]:
    """Return mean and standard deviation of each channel, and the mean standard deviation within an image."""
    means, squares, within = [], [], []
    for epoch in range(epochs):
        for index in range(images):
            x = source(epoch, index).double().flatten(1)
            means.append(x.mean(1))
            squares.append(x.square().mean(1))
            within.append(x.std(1).mean())
    mean = torch.stack(means).mean(0)
    std = (torch.stack(squares).mean(0) - mean.square()).sqrt()
    return [*mean.tolist(), *std.tolist(), float(torch.stack(within).mean())]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--images", type=int, default=None, help="so many of the training images; all of them")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TLAB_CACHE"] = cache
        folder = ImageFolder(str(args.root / "train"), torchvision_strong(args.image_size))
        files, store = (tlab_dataset(args.root, args.image_size, mode) for mode in ("off", "on"))
        images = min(args.images or len(folder), len(folder), len(files))
        sources: dict[str, Callable[[int, int], Any]] = {
            "imagefolder": lambda epoch, index: folder[index][0],
            "files": lambda epoch, index: files.image(SampleKey(epoch, index)),
            "store": lambda epoch, index: store.image(SampleKey(epoch, index)),
        }
        found = rates(sources, images, args.rounds)
        print(f"{images} images at {args.image_size} px, {args.rounds} rounds; images per second of processor time")
        for name in NAMES:
            ratios = [a / b for a, b in zip(found[name], found["imagefolder"], strict=True)]
            print(
                f"{name:12s} {statistics.median(found[name]):7.0f}   x {statistics.median(ratios):.2f} "
                f"({min(ratios):.2f} to {max(ratios):.2f})"
            )
        print("\npixels: mean R G B, standard deviation R G B, standard deviation within an image")
        for name in NAMES[:2]:
            print(f"{name:12s} " + " ".join(f"{value:7.2f}" for value in moments(sources[name], images, 4)))


if __name__ == "__main__":
    main()
