"""Peer: the plain loop of PyTorch's transfer-learning tutorial (see benchmarks/tutorial_loop.py).

Gradients of what stays frozen are off, so that nothing is computed backwards there; as in the tutorial,
`model.train()` covers the frozen layers too.
"""

import argparse

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader

from shared import Report, arguments, freeze, loaders, network, now


def train_epoch(model: nn.Module, batches: DataLoader, optimizer: SGD, args: argparse.Namespace) -> int:
    """Train on every image once; returns their number."""
    model.train()
    count = 0
    for x_BCHW, y_B in batches:
        x_BCHW, y_B = x_BCHW.to(args.device), y_B.to(args.device)
        optimizer.zero_grad()
        with torch.autocast(args.device.type, torch.bfloat16, enabled=args.precision == "bf16"):
            loss = nn.functional.cross_entropy(model(x_BCHW), y_B)
        loss.backward()
        optimizer.step()
        count += len(y_B)
    return count


@torch.no_grad()
def evaluate(model: nn.Module, batches: DataLoader, args: argparse.Namespace) -> float:
    """Return the share of the images whose highest logit is their class."""
    model.eval()
    right, count = 0, 0
    for x_BCHW, y_B in batches:
        with torch.autocast(args.device.type, torch.bfloat16, enabled=args.precision == "bf16"):
            f_BK = model(x_BCHW.to(args.device))
        right += int((f_BK.argmax(1).cpu() == y_B).sum())
        count += len(y_B)
    return right / count


def main() -> None:
    """Train and write the report."""
    args = arguments(__doc__)
    train, val = loaders(args)
    model = network(args.arch, args.weights, len(train.dataset.classes)).to(args.device)  # type: ignore[attr-defined]
    freeze(model, args.plan)
    lr = 1e-2 if args.plan == "head" else 1e-3  # as in benchmarks/tutorial_loop.py
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=lr, momentum=0.9)
    scheduler = StepLR(optimizer, step_size=7, gamma=0.1)
    report = Report()
    for _ in range(args.epochs):
        start = now(args.device)
        images = train_epoch(model, train, optimizer, args)
        seconds = now(args.device) - start
        scheduler.step()
        report.epoch(evaluate(model, val, args), seconds, images)
    report.write(args.json)


if __name__ == "__main__":
    main()
