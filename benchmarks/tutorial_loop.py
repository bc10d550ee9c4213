"""The plain PyTorch loop a reader would write instead of tlab; it imports torch and torchvision only.

It follows the official tutorial "Transfer Learning for Computer Vision"
(https://pytorch.org/tutorials/beginner/transfer_learning_tutorial.html): ImageFolder, PIL transforms, SGD
with momentum 0.9, StepLR(7, 0.1). The tutorial's two recipes run one after the other: first the head alone on
a backbone whose gradients are off, then the whole network at a tenth of that rate. As in the tutorial,
`model.train()` covers the frozen backbone too, so its BatchNorm statistics move.

    python benchmarks/tutorial_loop.py --root DATA --weights resnet18.pth --image-size 128 --seeds 0 1 2
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet, RGB in 0..1, as in the tutorial


@dataclass(frozen=True)
class Result:
    """What one seed gave: validation accuracy in 0..1 after every epoch, and seconds of wall clock."""

    seed: int
    accuracy: list[float]
    seconds: float


def loaders(root: Path, image_size: int, batch_size: int, workers: int) -> tuple[DataLoader, DataLoader]:
    """Training and validation batches of root/train and root/val; ImageFolder leaves out GIF files."""
    normalize = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    train = transforms.Compose(
        [transforms.RandomResizedCrop(image_size), transforms.RandomHorizontalFlip(), *normalize]
    )
    # The tutorial's Resize(256), CenterCrop(224), scaled to the image size.
    val = transforms.Compose(
        [transforms.Resize(round(image_size * 256 / 224)), transforms.CenterCrop(image_size), *normalize]
    )
    return (
        DataLoader(ImageFolder(str(root / "train"), train), batch_size, shuffle=True, num_workers=workers),
        DataLoader(ImageFolder(str(root / "val"), val), batch_size, num_workers=workers),
    )


def pretrained_resnet18(weights: Path, num_classes: int) -> models.ResNet:
    """ResNet-18 with the weights of a torchvision state dict and a new, random last layer."""
    state: dict[str, Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
    model = models.resnet18(num_classes=state["fc.weight"].shape[0])
    model.load_state_dict(state)
    model.fc = nn.Linear(model.fc.in_features, num_classes)
    return model


def train_epoch(model: nn.Module, batches: DataLoader, optimizer: SGD, device: torch.device) -> None:
    """One pass over the training images."""
    model.train()
    for x_BCHW, y_B in batches:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x_BCHW.to(device)), y_B.to(device))
        loss.backward()
        optimizer.step()


@torch.no_grad()
def evaluate(model: nn.Module, batches: DataLoader, device: torch.device) -> float:
    """Share of the images whose highest logit is their class."""
    model.eval()
    right, count = 0, 0
    for x_BCHW, y_B in batches:
        right += int((model(x_BCHW.to(device)).argmax(1).cpu() == y_B).sum())
        count += len(y_B)
    return right / count


def run(args: argparse.Namespace, seed: int) -> Result:
    """Head first, then everything; one accuracy per epoch."""
    torch.manual_seed(seed)
    start = time.perf_counter()
    train, val = loaders(args.root, args.image_size, args.batch_size, args.workers)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = pretrained_resnet18(args.weights, len(train.dataset.classes)).to(device)  # type: ignore[attr-defined]
    accuracy: list[float] = []
    for epochs, lr, backbone in ((args.frozen_epochs, 1e-2, False), (args.epochs, 1e-3, True)):
        for parameter in model.parameters():
            parameter.requires_grad = backbone
        for parameter in model.fc.parameters():
            parameter.requires_grad = True
        optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=lr, momentum=0.9)
        scheduler = StepLR(optimizer, step_size=7, gamma=0.1)
        for _ in range(epochs):
            train_epoch(model, train, optimizer, device)
            scheduler.step()
            accuracy.append(evaluate(model, val, device))
            print(f"seed {seed} epoch {len(accuracy):2d} val acc {accuracy[-1]:.4f}", flush=True)
    return Result(seed, accuracy, time.perf_counter() - start)


def spread(values: list[float]) -> str:
    """Mean and, for two values or more, sample standard deviation, in percent."""
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"


def table(results: list[Result]) -> str:
    """One row per seed and a row of means."""
    rows = ["| seed | val acc, last epoch (%) | val acc, best epoch (%) | seconds |", "|---|---|---|---|"]
    for r in results:
        last, best = r.accuracy[-1], max(r.accuracy)
        epoch = r.accuracy.index(best) + 1
        rows.append(f"| {r.seed} | {100 * last:.1f} | {100 * best:.1f} (epoch {epoch}) | {r.seconds:.0f} |")
    last_column, best_column = [r.accuracy[-1] for r in results], [max(r.accuracy) for r in results]
    seconds = statistics.mean(r.seconds for r in results)
    rows.append(f"| mean | {spread(last_column)} | {spread(best_column)} | {seconds:.0f} |")
    return "\n".join(rows)


def main() -> None:
    """Run every seed, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds train/ and val/")
    parser.add_argument("--weights", type=Path, required=True, help="state dict of a torchvision ResNet-18")
    parser.add_argument("--image-size", type=int, default=128, help="%(default)s pixels")
    parser.add_argument("--batch-size", type=int, default=32, help="%(default)s; the tutorial's is 4")
    parser.add_argument("--frozen-epochs", type=int, default=5, help="%(default)s: head alone, lr 1e-2")
    parser.add_argument("--epochs", type=int, default=10, help="%(default)s: all layers, lr 1e-3")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file for the figures of every epoch")
    args = parser.parse_args()
    results = [run(args, seed) for seed in args.seeds]
    print(table(results))
    if args.out:
        record = {"settings": vars(args), "results": [asdict(r) for r in results]}
        args.out.write_text(json.dumps(record, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
