"""Peer: the loop of torchvision's references/classification/train.py, which is made for full fine-tuning on GPUs.

From there: SGD 0.9 with weight decay 1e-4, StepLR, label smoothing off, autocast (`--amp`; here to bf16), pinned
memory and copies that do not block. Random resized crops and flips come from --aug.
"""

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from peer_tutorial import evaluate
from shared import Report, arguments, freeze, loaders, network, now


def main() -> None:
    """Train and write the report."""
    args = arguments(__doc__)
    torch.backends.cudnn.benchmark = True  # the reference's setting unless deterministic algorithms are asked for
    train, val = loaders(args)
    model = network(args.arch, args.weights, len(train.dataset.classes)).to(args.device)  # type: ignore[attr-defined]
    freeze(model, args.plan)
    criterion = nn.CrossEntropyLoss()
    lr = 1e-2 if args.plan == "head" else 1e-3  # the reference's 0.1 is for training from scratch
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=lr, momentum=0.9, weight_decay=1e-4)
    scheduler = StepLR(optimizer, step_size=30, gamma=0.1)
    report = Report()
    for _ in range(args.epochs):
        model.train()
        start, images = now(args.device), 0
        for x_BCHW, y_B in train:
            x_BCHW = x_BCHW.to(args.device, non_blocking=True)
            y_B = y_B.to(args.device, non_blocking=True)
            with torch.autocast(args.device.type, torch.bfloat16, enabled=args.precision == "bf16"):
                loss = criterion(model(x_BCHW), y_B)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            images += len(y_B)
        seconds = now(args.device) - start
        scheduler.step()
        report.epoch(evaluate(model, val, args), seconds, images)
    report.write(args.json)


if __name__ == "__main__":
    main()
