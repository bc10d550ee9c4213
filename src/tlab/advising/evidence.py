"""What is measured of a backbone on a data set before anything is trained."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from omegaconf import DictConfig

from tlab.advising.choice import Case, sampling_error
from tlab.advising.probes import CutScore, StageScore, score_stages
from tlab.advising.similarity import Similarity, batchnorm_similarity, mean_confidence
from tlab.assembly.frozen_features import frozen_features
from tlab.config.overrides import shell_argument
from tlab.core.errors import UserError
from tlab.core.text import as_text
from tlab.data.datamodule import ImageDataModule
from tlab.data.sources.scan import nfc
from tlab.data.sources.splitting.groups import captured
from tlab.models.autotune.precision import find_accelerator
from tlab.models.classifier import POOL, Classifier

LEARNED_FROM = ("train", "val")  # what a user has to choose by; test is for the end


@dataclass(frozen=True)
class Evidence:
    """What is measured of a backbone.

    Attributes:
        stages: Score of each stage, in order; the last one is of what a head would get.
        cut: What it is worth to cut the network behind the best earlier stage; None where there is none.
        similarity: How similar the images are to those of the pretraining.
        images: Number of images of train and val that were read.
        classes: Number of classes.
        seconds: Duration of the pass over the images; 0 where their features were stored.
        computed: Number of images whose features were computed now.
        weights: Origin of the weights, in words.
        net: The network with a head that has learned nothing.
    """

    stages: list[StageScore]
    cut: CutScore | None
    similarity: Similarity
    images: int
    classes: int
    seconds: float
    computed: int
    weights: str
    net: Classifier

    @property
    def images_per_class(self) -> float:
        """Mean number of images of a class."""
        return self.images / self.classes

    @property
    def case(self) -> Case:
        """What the expectation follows from."""
        probe, cut = self.last.accuracy, self.cut
        error = max(self.last.error, sampling_error(probe, self.images))
        return Case(probe, None, error=error) if cut is None else Case(probe, cut.accuracy, cut.error, error)

    @property
    def last(self) -> StageScore:
        """Score of what a head would get."""
        return self.stages[-1]


def check_classes(data: ImageDataModule, labels: Iterable[int]) -> None:
    """Refuse images that leave nothing to tell apart.

    Raises:
        UserError: The labels are not of two classes.
    """
    if len({*labels}) < 2:
        raise UserError(
            f"{shell_argument('data.root', data.index.root)} has images of one class alone to learn from, "
            f"{data.classes[0]}; advice needs two: add images of another class"
        )


def gather_evidence(cfg: DictConfig, data: ImageDataModule) -> Evidence:
    """Measure the backbone of a run's configuration on the images of train and val.

    Args:
        cfg: Configuration of a run.
        data: Its data, set up.

    Raises:
        UserError: The backbone cannot be had, or too few images are left to hold some out.
    """
    found = frozen_features(cfg, data)
    readable = np.isfinite(found.stages[POOL]).all(axis=1)
    rows = np.flatnonzero(np.isin(found.splits, LEARNED_FROM) & readable)
    labels = found.labels[rows]
    check_classes(data, labels.tolist())
    names = [*found.net.backbone.stage_names]
    stages = {name: found.stages[name][rows] for name in names[:-1]} | {names[-1]: found.stages[POOL][rows]}
    groups = _groups(cfg, data, [found.samples[row][1].file for row in rows])
    random = cfg.backbone.weights is None or not cfg.finetune.pretrained
    device = torch.device(find_accelerator(cfg.trainer.accelerator))
    similarity = Similarity(
        None if random else batchnorm_similarity(found.net, data, device),
        mean_confidence(found.logits[rows] if found.logits is not None else None),
    )
    scores, cut = score_stages(stages, labels, groups, data.num_classes)
    weights = found.net.backbone.pretraining.description
    return Evidence(
        scores, cut, similarity, len(rows), data.num_classes, found.seconds, found.computed, weights, found.net
    )


def _groups(cfg: DictConfig, data: ImageDataModule, files: list[str]) -> list[str] | None:
    """Return the group of each file as `data.group` names it; None without it."""
    group = cfg.data.get("group")
    if group is None:
        return None
    index = data.index
    paths = [file.removeprefix(f"{index.root}/") for file in files]
    if index.columns is not None and group in index.columns.cells:
        cells = dict(zip(index.columns.files, index.columns.cells[group], strict=True))
        return [cells[path] or path for path in paths]
    expression = re.compile(nfc(group))
    return [captured(expression, path) or as_text(path) for path in paths]
