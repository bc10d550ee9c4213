"""Peer: a training loop put together from timm's library, in the way of its train.py.

The network is timm's model of that name, its loader and transforms, its optimiser and schedule factories and its
`freeze` (which also stops the BatchNorm statistics). timm's training loader drops the last incomplete batch.
"""

import argparse

import torch
from timm import create_model
from timm.data import ImageDataset, create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import accuracy, freeze
from torch import nn
from torch.utils.data import DataLoader

from shared import STAGE, Report, arguments, load_state, now, source_classes


def batches(args: argparse.Namespace, split: str) -> DataLoader:
    """Return timm's loader of root/<split>."""
    train = split == "train"
    choices: dict[str, dict] = {
        "none": {"no_aug": True},
        "light": {"color_jitter": 0.0},
        "strong": {"auto_augment": "rand-m9-mstd0.5", "re_prob": 0.25, "color_jitter": 0.3},
    }
    return create_loader(
        ImageDataset(str(args.root / split)),
        input_size=(3, args.image_size, args.image_size),
        batch_size=args.batch_size,
        is_training=train,
        scale=(0.3, 1.0) if args.aug == "strong" else (0.4, 1.0),
        num_workers=args.workers,
        device=args.device,
        use_prefetcher=args.device.type == "cuda",
        pin_memory=args.device.type == "cuda",
        **(choices[args.aug] if train else {}),
    )


def build(args: argparse.Namespace, num_classes: int) -> nn.Module:
    """Return timm's model with the weights of the file (names translated by timm) and a new last layer."""
    source = {"file": str(args.weights), "num_classes": source_classes(load_state(args.weights))}
    model = create_model(args.arch, pretrained=True, pretrained_cfg_overlay=source, num_classes=num_classes)
    head = model.pretrained_cfg["classifier"]  # type: ignore[index]
    kept = {"head": (head,), "layer4": (STAGE, head), "full": ("",)}[args.plan]
    leaves = [name for name, module in model.named_modules() if name and not list(module.children())]
    if frozen := [name for name in leaves if not name.startswith(kept)]:
        freeze(model, frozen)
    model = model.to(args.device)
    if args.device.type == "cuda":  # --channels-last of timm's train.py, the usual choice with --amp
        model = model.to(memory_format=torch.channels_last)
    return model


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader, args: argparse.Namespace) -> float:
    """Return the share of the images whose highest logit is their class."""
    model.eval()
    hits, count = 0.0, 0
    for x_BCHW, y_B in loader:
        with torch.autocast(args.device.type, torch.bfloat16, enabled=args.precision == "bf16"):
            f_BK = model(x_BCHW.to(args.device))
        (top1,) = accuracy(f_BK, y_B.to(args.device), topk=(1,))
        hits, count = hits + float(top1) / 100 * len(y_B), count + len(y_B)
    return hits / count


def main() -> None:
    """Train and write the report."""
    args = arguments(__doc__)
    train, val = batches(args, "train"), batches(args, "val")
    model = build(args, len(train.dataset.reader.class_to_idx))  # type: ignore[attr-defined]
    lr = 1e-2 if args.plan == "head" else 1e-3
    optimizer = create_optimizer_v2(model, opt="sgd", lr=lr, momentum=0.9, weight_decay=1e-4)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=args.epochs)
    report = Report()
    for epoch in range(args.epochs):
        model.train()
        start, images = now(args.device), 0
        for x_BCHW, y_B in train:
            x_BCHW, y_B = x_BCHW.to(args.device), y_B.to(args.device)
            if args.device.type == "cuda":
                x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
            with torch.autocast(args.device.type, torch.bfloat16, enabled=args.precision == "bf16"):
                loss = nn.functional.cross_entropy(model(x_BCHW), y_B)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            images += len(y_B)
        seconds = now(args.device) - start
        scheduler.step(epoch + 1)
        report.epoch(evaluate(model, val, args), seconds, images)
    report.write(args.json)


if __name__ == "__main__":
    main()
