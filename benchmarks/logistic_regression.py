"""L2-regularised logistic regression on frozen, pooled features: what fine-tuning has to beat.

The features are tlab's own (backbone, evaluation transform, average pooling), standardised with the mean and
deviation of the training images. The regression is the convex problem that scikit-learn's `LogisticRegression`
solves (Pedregosa et al. 2011), with the same C, here by L-BFGS in float64 until the gradient vanishes. There is no
randomness but the folds of the cross-validation, which looks at training images only.

    python benchmarks/logistic_regression.py --root DATA --weights resnet18.pth --image-size 128
"""

import argparse
import csv
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tlab.data.datamodule import ImageDataModule
from tlab.data.sources.folder import folder_index
from tlab.models.backbones import build_backbone
from tlab.models.classifier import Normalize

GRID = [10 ** (half / 2) for half in range(-10, 3)]  # of C: 1e-5 to 10 in half decades


class Features(NamedTuple):
    """Features x `N D` (float64) and labels y `N` of some images."""

    x: Tensor
    y: Tensor

    def where(self, mask_N: Tensor) -> "Features":
        """The images at which `mask_N` is true."""
        return Features(self.x[mask_N], self.y[mask_N])


@torch.no_grad()
def features(data: ImageDataModule, split: str, net: nn.Module) -> Features:
    """Features of a split without augmentation, averaged over positions."""
    rows, labels = [], []
    for batch in data.loader(split):
        rows.append(net(batch.image).mean((2, 3)).double())
        labels.append(batch.label)
    return Features(torch.cat(rows), torch.cat(labels))


def fit(x_ND: Tensor, y_N: Tensor, num_classes: int, c: float) -> nn.Linear:
    """The minimum of C * sum of cross-entropies + penalty.

    The penalty is half the squared norm of the weights without the biases, as in scikit-learn; for two classes
    that of the one vector which its binary model has (the difference of the rows), which is twice the rows' own.
    """
    layer = nn.Linear(x_ND.shape[1], num_classes, dtype=torch.float64)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    strength = 0.5 * (2 if num_classes == 2 else 1) / (c * len(x_ND))
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=2000, tolerance_grad=1e-6, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(layer(x_ND), y_N) + strength * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return layer


def accuracy(train: Features, test: Features, num_classes: int, c: float) -> float:
    """Share in 0..1 of `test` that a regression fitted to `train` has right."""
    mean_D, std_D = train.x.mean(0), train.x.std(0, correction=0).clamp(min=1e-9)
    layer = fit((train.x - mean_D) / std_D, train.y, num_classes, c)
    return float((layer((test.x - mean_D) / std_D).argmax(1) == test.y).double().mean())


def cross_validated(train: Features, num_classes: int, folds: int, seed: int) -> tuple[float, float]:
    """The C of the highest mean accuracy over the folds (the smallest of equals), and that accuracy."""
    order_N = torch.randperm(len(train.y), generator=torch.Generator().manual_seed(seed))
    order_N = order_N[torch.argsort(train.y[order_N], stable=True)]  # class after class: the folds are stratified
    fold_N = torch.empty_like(order_N)
    fold_N[order_N] = torch.arange(len(order_N)) % folds
    best = (GRID[0], -1.0)
    for c in GRID:
        scores = [
            accuracy(train.where(fold_N != fold), train.where(fold_N == fold), num_classes, c)
            for fold in range(folds)
        ]
        if sum(scores) / folds > best[1]:
            best = (c, sum(scores) / folds)
    return best


def main() -> None:
    """Compute the features, fit with C = 0.01 and with the C of 5-fold cross-validation, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds train/ and val/")
    parser.add_argument("--weights", required=True, help="file, or a name that backbone.weights takes")
    parser.add_argument("--backbone", default="resnet18", help="torchvision name of a network with feature maps")
    parser.add_argument("--image-size", type=int, default=128, help="%(default)s pixels")
    parser.add_argument("--c", type=float, default=0.01, help="%(default)s: the fixed C")
    parser.add_argument("--folds", type=int, default=5, help="%(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--out", type=Path, help="CSV file, one row per C")
    args = parser.parse_args()
    data = ImageDataModule(partial(folder_index, args.root), image_size=args.image_size, num_workers=0)
    data.setup()
    backbone = build_backbone(args.backbone, weights=args.weights, image_size=args.image_size)
    net = nn.Sequential(Normalize(backbone.pretraining.mean, backbone.pretraining.std), backbone).eval()
    train, val = features(data, "train", net), features(data, "val", net)
    chosen, score = cross_validated(train, data.num_classes, args.folds, args.seed)
    print(f"{args.folds}-fold cross-validation on {len(train.y)} training images: C={chosen:.3g}, {score:.1%}")
    rows = [("fixed", args.c), ("cross-validated", chosen)]
    results = [(how, c, accuracy(train, val, data.num_classes, c)) for how, c in rows]
    print("| C | val acc (%) |", "|---|---|", sep="\n")
    for how, c, value in results:
        print(f"| {c:.3g} ({how}) | {100 * value:.1f} |")
    if args.out:
        with args.out.open("w", newline="") as file:
            csv.writer(file).writerows([("choice", "c", "accuracy"), *results])


if __name__ == "__main__":
    main()
