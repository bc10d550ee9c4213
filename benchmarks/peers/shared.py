"""What all peers share: their arguments, the network with a new last layer, the images, and what they report.

A peer is what a competent user of another library would write for the same training. It imports nothing of tlab,
and has its training loop whole, also where two loops are alike: they are timed as they would be written.
Called as `python benchmarks/peers/peer_NAME.py --root DATA --weights FILE --arch resnet18 ... --json OUT`.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet, RGB in 0..1
GRAY = (124, 116, 104)  # the same mean in 0..255
STAGE = "layer4"  # of a ResNet: what the plan of that name trains besides the head


def arguments(description: str | None) -> argparse.Namespace:
    """Parse a peer's command line; the same for all."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds train/ and val/")
    parser.add_argument("--weights", type=Path, required=True, help="torchvision state dict of --arch")
    parser.add_argument("--arch", default="resnet18", help="torchvision model, %(default)s")
    parser.add_argument("--image-size", type=int, default=224, help="pixels, %(default)s")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--plan", choices=["head", "layer4", "full"], default="head", help="what trains")
    parser.add_argument("--aug", choices=["none", "light", "strong"], default="none")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="loader processes: %(default)s, the cores"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True, help="where to write the figures")
    args = parser.parse_args()
    args.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(args.seed)
    return args


@dataclass
class Report:
    """What a peer measures: accuracy in 0..1 on val/, seconds and images of the training part, per epoch."""

    accuracy: list[float] = field(default_factory=list)
    train_seconds: list[float] = field(default_factory=list)
    train_images: list[int] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)

    def epoch(self, accuracy: float, seconds: float, images: int) -> None:
        """Add an epoch."""
        self.accuracy.append(accuracy)
        self.train_seconds.append(seconds)
        self.train_images.append(images)
        print(f"epoch {len(self.accuracy)}: {accuracy:.4f}, {images / seconds:.1f} images/s", flush=True)

    def write(self, path: Path) -> None:
        """Write all of it, with the seconds since the report was begun (training and validation)."""
        record = {
            "accuracy": self.accuracy,
            "train_seconds": self.train_seconds,
            "train_images": self.train_images,
            "fit_seconds": time.perf_counter() - self.start,
        }
        path.write_text(json.dumps(record) + "\n")


def now(device: torch.device) -> float:
    """Return the clock in seconds; on a GPU once all work that was handed to it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def load_state(weights: Path) -> dict[str, Tensor]:
    """Read a torchvision state dict."""
    return torch.load(weights, map_location="cpu", weights_only=True)


def source_classes(state: dict[str, Tensor]) -> int:
    """Return how many classes the weights were trained for: the rows of the last matrix."""
    return [tensor for tensor in state.values() if tensor.ndim == 2][-1].shape[0]


def last_layer(model: nn.Module) -> tuple[str, nn.Linear]:
    """Return name and module of the classifier."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]


def replace_last_layer(model: nn.Module, new: nn.Module) -> None:
    """Put `new` in the place of the classifier."""
    parent, _, name = last_layer(model)[0].rpartition(".")
    setattr(model.get_submodule(parent), name, new)


def network(arch: str, weights: Path, num_classes: int) -> nn.Module:
    """Return a torchvision model with the weights of a file and a new, random last layer."""
    state = load_state(weights)
    model = models.get_model(arch, weights=None, num_classes=source_classes(state))
    model.load_state_dict(state)
    replace_last_layer(model, nn.Linear(last_layer(model)[1].in_features, num_classes))
    return model


def freeze(model: nn.Module, plan: str) -> None:
    """Switch off the gradients of all that `plan` does not train."""
    trained = {"head": (last_layer(model)[0],), "layer4": (STAGE, last_layer(model)[0]), "full": ("",)}[plan]
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(trained)


def train_transform(aug: str, size: int) -> transforms.Compose:
    """Return torchvision's transforms on PIL images for training: 3 size size floats, normalised.

    The strengths of light and strong are those of tlab's augmentations of these names.
    """
    if aug == "none":
        return val_transform(size)
    scale = (0.4, 1.0) if aug == "light" else (0.3, 1.0)
    steps: list = [transforms.RandomResizedCrop(size, scale), transforms.RandomHorizontalFlip()]
    if aug == "strong":
        steps += [
            transforms.RandomAffine(15, shear=8, interpolation=transforms.InterpolationMode.BILINEAR, fill=GRAY),
            transforms.ColorJitter(0.3, 0.3, 0.3),
            transforms.RandomApply([transforms.ColorJitter(hue=0.05)], 0.3),
        ]
    steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    if aug == "strong":
        steps.append(transforms.RandomErasing(0.25, (0.02, 0.2)))
    return transforms.Compose(steps)


def val_transform(size: int) -> transforms.Compose:
    """Return the tutorial's Resize(256) and CenterCrop(224), scaled to `size`."""
    resize = transforms.Resize(round(size * 256 / 224))
    return transforms.Compose(
        [resize, transforms.CenterCrop(size), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )


def image_folders(args: argparse.Namespace) -> tuple[ImageFolder, ImageFolder]:
    """Return root/train and root/val; ImageFolder leaves out GIF files."""
    train = ImageFolder(str(args.root / "train"), train_transform(args.aug, args.image_size))
    return train, ImageFolder(str(args.root / "val"), val_transform(args.image_size))


def loaders(args: argparse.Namespace) -> tuple[DataLoader, DataLoader]:
    """Return the batches of both, decoded by worker processes that stay between epochs."""
    train, val = image_folders(args)
    options: dict = {
        "batch_size": args.batch_size,
        "num_workers": args.workers,
        "persistent_workers": args.workers > 0,
        "pin_memory": args.device.type == "cuda",
    }
    return DataLoader(train, shuffle=True, **options), DataLoader(val, **options)
