"""How many tensors of a frozen backbone change while only the head trains?

A backbone that is frozen should come out as it went in, bit by bit, parameters and buffers alike. This script
trains the head for a few steps on random images and counts the backbone's tensors that differ afterwards:
with Lightning's own `BackboneFinetuning`, and with tlab. Weights are random, so nothing is downloaded.

    python benchmarks/frozen_means_frozen.py
"""

import argparse
import logging
import warnings
from functools import partial

import lightning as L
import torch
from lightning.pytorch.callbacks import BackboneFinetuning
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset
from torchvision import models

import tlab.finetuning
from tlab.data.batch import Batch
from tlab.finetuning import RunState, build_plan
from tlab.models.backbones import build_backbone
from tlab.models.classifier import Classifier
from tlab.models.head import Head
from tlab.models.module import ImageClassifier
from tlab.models.stages import IMAGENET_MEAN, IMAGENET_STD

ARCHITECTURES = ("resnet18", "vgg16_bn", "mobilenet_v3_small")
CLASSES, BATCH, STEPS, IMAGE_SIZE = 3, 8, 4, 64


def sgd(module: nn.Module) -> SGD:
    """SGD over the parameters of `module` that require a gradient now."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    return SGD(trainable, lr=1e-2, momentum=0.9, weight_decay=1e-4)


def batches() -> DataLoader:
    """STEPS batches of random images, B 3 H W float32, with random labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(STEPS * BATCH, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    labels = torch.randint(CLASSES, (len(images),), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=BATCH)


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before: dict[str, Tensor], module: nn.Module) -> str:
    """Count backbone tensors that are not bitwise what they were: `n of N`.

    Args:
        before: Snapshot of `module`.
        module: Network with a `backbone` and a `head`.

    Raises:
        RuntimeError: The head did not change, so nothing was trained and the count means nothing.
    """
    moved = {name for name, tensor in module.state_dict().items() if not torch.equal(before[name], tensor)}
    if not any(name.startswith("head.") for name in moved):
        raise RuntimeError("the head did not train")
    backbone = {name for name in before if name.startswith("backbone.")}
    return f"{len(moved & backbone)} of {len(backbone)}"


class Network(L.LightningModule):
    """A torchvision network whose last layer is a new head: the shape that Lightning's callback asks for.

    Args:
        architecture: Name of a torchvision classification model.
        optimize_all: True gives the optimiser every parameter that requires a gradient, False the head alone
            (as the example in the callback's docstring does).
    """

    def __init__(self, architecture: str, optimize_all: bool) -> None:
        super().__init__()
        self.backbone = models.get_model(architecture, weights=None)
        parent = self.backbone if architecture.startswith("resnet") else self.backbone.classifier
        name, last = list(parent.named_children())[-1]
        assert isinstance(last, nn.Linear)
        setattr(parent, name, nn.Identity())
        self.head = nn.Linear(last.in_features, CLASSES)
        self.optimize_all = optimize_all

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy of one batch."""
        x_BCHW, y_B = batch
        return nn.functional.cross_entropy(self.head(self.backbone(x_BCHW)), y_B)

    def configure_optimizers(self) -> SGD:
        """SGD, either over all that is trainable now or over the head."""
        return sgd(self if self.optimize_all else self.head)


def fit(module: L.LightningModule, callback: L.Callback, loader: DataLoader) -> None:
    """Train for one epoch on the CPU, silently."""
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)


def lightning_changes(architecture: str, optimize_all: bool, train_bn: bool = True) -> str:
    """One frozen epoch under Lightning's callback."""
    L.seed_everything(0, verbose=False)
    network = Network(architecture, optimize_all)
    before = snapshot(network)
    fit(network, BackboneFinetuning(unfreeze_backbone_at_epoch=10, train_bn=train_bn), batches())
    return changed(before, network)


def tlab_changes(architecture: str) -> str:
    """The same epoch under tlab's callback of the same name, plan `head`; the optimiser holds every parameter."""
    L.seed_everything(0, verbose=False)
    backbone = build_backbone(architecture, weights=None, image_size=IMAGE_SIZE)
    net = Classifier(backbone, Head(backbone.feature_dim, CLASSES), IMAGENET_MEAN, IMAGENET_STD)
    module = ImageClassifier(net, ("a", "b", "c"), partial(SGD, lr=1e-2, momentum=0.9, weight_decay=1e-4))
    before = snapshot(net)
    plan = build_plan({"head": {"train": "head", "epochs": None}}, 1, backbone.stage_names)
    rows = [Batch(x_BCHW, y_B, torch.arange(len(y_B))) for x_BCHW, y_B in batches()]
    fit(module, tlab.finetuning.BackboneFinetuning(RunState(plan)), DataLoader(rows, batch_size=None))  # type: ignore[arg-type]
    return changed(before, net)


def main() -> None:
    """Print one row per architecture."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    print(f"Backbone tensors changed by {STEPS} steps of a frozen phase, Lightning {L.__version__}\n")
    print("| network | Lightning | Lightning, train_bn=False | Lightning, optimiser has the head only | tlab |")
    print("|---|---|---|---|---|")
    for architecture in ARCHITECTURES:
        counts = [
            lightning_changes(architecture, optimize_all=True),
            lightning_changes(architecture, optimize_all=True, train_bn=False),
            lightning_changes(architecture, optimize_all=False),
            tlab_changes(architecture),
        ]
        print(f"| {architecture} | {' | '.join(counts)} |", flush=True)


if __name__ == "__main__":
    main()
