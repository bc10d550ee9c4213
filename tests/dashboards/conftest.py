"""A run small enough for every test: two stages, three classes, its own event files."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from tlab.data.datamodule import ImageDataModule
from tlab.data.sources.folder import folder_index
from tlab.finetuning import BackboneFinetuning, RunState, build_plan
from tlab.models.classifier import Classifier
from tlab.models.head import Head
from tlab.models.module import ImageClassifier
from tlab.models.stages import IMAGENET_MEAN, IMAGENET_STD, Pretraining, StagedBackbone

CLASSES = ("blue", "green", "red")
EVERYTHING = {"tensors": 0, "images": 0, "scalars": 0}


@pytest.fixture
def net() -> Classifier:
    torch.manual_seed(0)
    stages = {
        "stem": nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        "body": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    }
    return Classifier(StagedBackbone(stages, Pretraining(), 16), Head(6, 3), IMAGENET_MEAN, IMAGENET_STD)


@pytest.fixture
def data(photos: Path) -> Callable[..., ImageDataModule]:
    """Make the data module; arguments override."""
    return partial(ImageDataModule, partial(folder_index, photos), image_size=16, batch_size=12, num_workers=0)


@pytest.fixture
def plan() -> Any:
    return build_plan(
        {"head": {"train": "head", "epochs": 1}, "all": {"train": "all", "epochs": None}}, 2, ("stem", "body")
    )


@pytest.fixture
def state(plan: Any) -> RunState:
    """Where the run of `fit` stands; of its history, one row that is there from the start."""
    return RunState(plan, rows=[{"images_per_second": 1.0}])


@pytest.fixture
def module(net: Classifier) -> ImageClassifier:
    return ImageClassifier(net, CLASSES, partial(torch.optim.SGD, lr=0.1))


@pytest.fixture
def fit(module: ImageClassifier, data: Any, state: RunState, tmp_path: Path) -> Callable[..., L.Trainer]:
    """Fit for two epochs of three steps with these callbacks; `logger=False` goes without TensorBoard."""

    def fit_(*callbacks: L.Callback, datamodule: Any = None, logger: Any = True, **options: Any) -> L.Trainer:
        state.records.clear()  # of a fit before
        trainer = L.Trainer(
            **{"max_epochs": 2, "log_every_n_steps": 2, "num_sanity_val_steps": 1, **options},
            callbacks=[BackboneFinetuning(state), *callbacks],
            logger=TensorBoardLogger(tmp_path, "", "", default_hp_metric=False) if logger else False,
            accelerator="cpu",
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, datamodule=datamodule or data())
        return trainer

    return fit_


@pytest.fixture
def events(tmp_path: Path) -> Callable[[], EventAccumulator]:
    """Read back what was written."""
    return lambda: EventAccumulator(str(tmp_path), EVERYTHING).Reload()
