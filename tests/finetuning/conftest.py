"""A net of three stages that trains in milliseconds, and its data."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tlab.data.batch import Batch
from tlab.finetuning import BackboneFinetuning, RunState, build_plan
from tlab.models.classifier import Classifier
from tlab.models.head import Head
from tlab.models.module import ImageClassifier
from tlab.models.stages import IMAGENET_MEAN, IMAGENET_STD, Pretraining, StagedBackbone


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
        nn.Dropout(0.2),
    )


@pytest.fixture
def net() -> Classifier:
    torch.manual_seed(0)
    stages = {"stem": block(3, 4), "mid": block(4, 4), "top": block(4, 6)}
    backbone = StagedBackbone(stages, Pretraining(input_size=8), image_size=8)
    return Classifier(backbone, Head(6, 2), IMAGENET_MEAN, IMAGENET_STD)


SGD = partial(torch.optim.SGD, lr=1.0)


class Loader:
    """Two batches of four images; the same in every epoch."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        images = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8, generator=generator)
        labels = torch.arange(8) % 2
        self.batches = [Batch(images[i : i + 4], labels[i : i + 4], torch.arange(i, i + 4)) for i in (0, 4)]

    def loader(self) -> DataLoader[Any]:
        # a generator of its own: the global one is dropout's
        return DataLoader(self.batches, batch_size=None, generator=torch.Generator())  # type: ignore[arg-type]


@pytest.fixture
def fit(net: Classifier, tmp_path: Path) -> Callable[..., tuple[L.Trainer, BackboneFinetuning]]:
    """Fit `net` by a plan of the given phases; SGD with rate 1 unless told otherwise."""

    def fit_(
        phases: dict[str, dict[str, Any]],
        epochs: int,
        schedule: Callable[..., Any],
        callbacks: list[L.Callback] | None = None,
        optimizer: Callable[..., Any] = SGD,
        backbone_lr_scale: float = 0.5,
        ckpt_path: Path | None = None,
    ) -> tuple[L.Trainer, BackboneFinetuning]:
        plan = build_plan(phases, epochs, net.backbone.stage_names, backbone_lr_scale)
        finetuning = BackboneFinetuning(RunState(plan), schedule)
        module = ImageClassifier(net, ("a", "b"), optimizer, channels_last=False)
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=plan.epochs,
            logger=False,
            enable_checkpointing=any(isinstance(c, L.callbacks.ModelCheckpoint) for c in callbacks or []),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=[finetuning, *(callbacks or [])],
            default_root_dir=tmp_path,
        )
        torch.manual_seed(2)
        trainer.fit(module, Loader().loader(), Loader().loader(), ckpt_path=ckpt_path)
        return trainer, finetuning

    return fit_
