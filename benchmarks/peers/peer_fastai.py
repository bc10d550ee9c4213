"""Peer: fastai's `vision_learner`, frozen or unfrozen, trained with `fit_one_cycle`: what `fine_tune` is made of.

`fine_tune(epochs)` alone would unfreeze after its first epoch; head-only training is its first half, with the
learner as `vision_learner` gives it. fastai's defaults stay: a head of two layers on average and maximum pooling,
Adam, workers as many as cores, BatchNorm of frozen layers in training mode, the last incomplete batch dropped.
"""

import argparse
import time
from pathlib import Path

import torch
from fastai.vision.all import (
    Callback,
    CategoryBlock,
    DataBlock,
    DataLoaders,
    FlipItem,
    GrandparentSplitter,
    ImageBlock,
    L,
    Learner,
    RandomResizedCrop,
    Resize,
    accuracy,
    aug_transforms,
    get_image_files,
    model_meta,
    params,
    parent_label,
    set_seed,
    vision_learner,
)
from torch import nn
from torchvision import models

from shared import Report, arguments, load_state, source_classes


class Clock(Callback):
    """Takes the time of each epoch's training part, and the accuracy when it is over."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.start = self.seconds = 0.0
        self.images = 0

    def before_train(self) -> None:
        """Start."""
        self.start, self.images = time.perf_counter(), 0

    def after_batch(self) -> None:
        """Count."""
        self.images += len(self.learn.yb[0]) if self.learn.training else 0

    def after_train(self) -> None:
        """Stop."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.start

    def after_epoch(self) -> None:
        """Report; the validation of the epoch is over, and its last metric is the accuracy."""
        self.report.epoch(float(self.learn.recorder.metrics[0].value), self.seconds, self.images)


def images_without_gif(root: Path) -> list[Path]:
    """Return the images that ImageFolder would find."""
    return [path for path in get_image_files(root) if path.suffix.lower() != ".gif"]


def data(args: argparse.Namespace) -> DataLoaders:
    """Return root/train and root/val as fastai's loaders."""
    size = args.image_size
    item = {"none": [Resize(size)]}.get(args.aug, [RandomResizedCrop(size, min_scale=0.4), FlipItem()])
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=images_without_gif,
        splitter=GrandparentSplitter("train", "val"),
        get_y=parent_label,
        item_tfms=item,
        batch_tfms=aug_transforms() if args.aug == "strong" else None,
    )
    return block.dataloaders(args.root, bs=args.batch_size)


def layer4_and_head(model: nn.Sequential) -> L:
    """Split a ResNet's parameters at layer4, the last module of the body, instead of at layer3."""
    body, head = model
    assert isinstance(body, nn.Sequential)
    return L(body[:-1], body[-1:], head).map(params)


def learner(args: argparse.Namespace, dls: DataLoaders) -> Learner:
    """Return `vision_learner(dls, arch)` with the pretrained weights of a file.

    The architecture is a function of ours that is entered in fastai's own table under the same settings, so that
    all that `pretrained=True` implies stays in force: where to cut, the frozen body, ImageNet's normalisation.
    """
    state = load_state(args.weights)

    def pretrained(weights: object = None) -> nn.Module:  # fastai passes "DEFAULT": the file instead
        model = models.get_model(args.arch, weights=None, num_classes=source_classes(state))
        model.load_state_dict(state)
        return model

    # The table knows VGGs with BatchNorm only; those without have the same layout.
    known = f"{args.arch}_bn" if args.arch in ("vgg11", "vgg13", "vgg16", "vgg19") else args.arch
    model_meta[pretrained] = model_meta[getattr(models, known)]
    splitter = {"splitter": layer4_and_head} if args.plan == "layer4" else {}
    learn = vision_learner(dls, pretrained, metrics=accuracy, **splitter)
    if args.plan == "layer4":
        learn.freeze_to(-2)
    elif args.plan == "full":
        learn.unfreeze()
    return learn.to_bf16() if args.precision == "bf16" else learn


def main() -> None:
    """Train and write the report."""
    args = arguments(__doc__)
    set_seed(args.seed)
    learn = learner(args, data(args))
    report = Report()
    learn.add_cb(Clock(report))
    if args.plan == "head":
        learn.fit_one_cycle(args.epochs)
    else:
        learn.fit_one_cycle(args.epochs, lr_max=slice(1e-5, 1e-3))
    report.write(args.json)


if __name__ == "__main__":
    main()
