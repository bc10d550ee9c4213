"""Peer: Lightning's Trainer with its own BackboneFinetuning, torchvision's ImageFolder and transforms.

Trainer settings are Lightning's defaults (checkpoints, logger and progress bar included). The head-only module is
the example of BackboneFinetuning's docstring: Adam on the head, the callback keeps the backbone frozen. By default
that callback leaves BatchNorm layers training, so the backward pass goes through the backbone.
"""

import argparse
import time

import lightning as L
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from shared import STAGE, Report, arguments, last_layer, loaders, network, replace_last_layer


class TransferLearning(L.LightningModule):
    """A backbone and a head, as BackboneFinetuning asks for.

    Args:
        model: A torchvision model with a new last layer.
        plan: head, layer4 or full.
    """

    def __init__(self, model: nn.Module, plan: str) -> None:
        super().__init__()
        self.head = last_layer(model)[1]
        replace_last_layer(model, nn.Identity())
        self.backbone = model
        self.plan = plan

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the cross-entropy of a batch."""
        x_BCHW, y_B = batch
        loss = nn.functional.cross_entropy(self.head(self.backbone(x_BCHW)), y_B)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the accuracy."""
        x_BCHW, y_B = batch
        hits_B = self.head(self.backbone(x_BCHW)).argmax(1) == y_B
        self.log("val_acc", hits_B.float().mean(), batch_size=len(y_B), prog_bar=True)

    def configure_optimizers(self) -> Optimizer:
        """Adam on what trains."""
        if self.plan == "head":
            return Adam(self.head.parameters(), lr=1e-3)
        return Adam((p for p in self.parameters() if p.requires_grad), lr=1e-4)


class FreezeBelow(BaseFinetuning):
    """Freezes every stage of the backbone but one, for good: Lightning's own way for a plan of one's own."""

    def freeze_before_training(self, pl_module: L.LightningModule) -> None:
        """Freeze the other stages with Lightning's `freeze`."""
        assert isinstance(pl_module.backbone, nn.Module)
        self.freeze([module for name, module in pl_module.backbone.named_children() if name != STAGE])

    def finetune_function(self, pl_module: L.LightningModule, epoch: int, optimizer: Optimizer) -> None:
        """Unfreeze nothing."""


class Clock(L.Callback):
    """Takes the time of each epoch up to the end of its last training step."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.start = self.end = 0.0
        self.images = 0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start."""
        self.start, self.images = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: tuple, batch_idx: int
    ) -> None:
        """Stop, for the time being."""
        if trainer.is_last_batch and pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self.end = time.perf_counter()
        self.images += len(batch[1])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report; the validation of the epoch is over too."""
        self.report.epoch(float(trainer.callback_metrics["val_acc"]), self.end - self.start, self.images)


def freezing(args: argparse.Namespace) -> list[L.Callback]:
    """Return the callback that carries out the plan."""
    if args.plan == "head":
        return [BackboneFinetuning(unfreeze_backbone_at_epoch=args.epochs + 1)]
    return [FreezeBelow()] if args.plan == "layer4" else []


def main() -> None:
    """Train and write the report."""
    args = arguments(__doc__)
    L.seed_everything(args.seed)
    train, val = loaders(args)
    module = TransferLearning(network(args.arch, args.weights, len(train.dataset.classes)), args.plan)  # type: ignore[attr-defined]
    report = Report()
    trainer = L.Trainer(
        max_epochs=args.epochs,
        devices=1,
        precision="bf16-mixed" if args.precision == "bf16" else "32-true",
        callbacks=[*freezing(args), Clock(report)],
        default_root_dir=args.json.parent,
    )
    trainer.fit(module, train, val)
    report.write(args.json)


if __name__ == "__main__":
    main()
