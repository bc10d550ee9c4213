"""The weights between the end of the head phase and the end of a run that validate best (WiSE-FT)."""

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from tlab.data.datamodule import ImageDataModule
from tlab.finetuning.batchnorm import batchnorm_layers, training_statistics
from tlab.finetuning.split_logits import split_logits
from tlab.models.autotune.precision import autocast
from tlab.models.calibration.collected_logits import CollectedLogits
from tlab.models.calibration.temperature import every_of
from tlab.models.losses import each
from tlab.models.module import ImageClassifier

log = logging.getLogger(__name__)

ALPHAS = tuple(step / 10 for step in range(11))
DECISIVE = ("val/acc", "val/loss")
WISE = "wise"
BETWEEN, ESTIMATED = "between", "estimated"

Weights = dict[str, Tensor]  # the state dict of an `ImageClassifier`


@dataclass(frozen=True)
class Candidate:
    """Weights between two, and how they validate.

    Attributes:
        alpha: Share of the second ones.
        batchnorm: Whose the statistics of BatchNorm are: "between" the two as the weights are, or "estimated".
        metrics: `val/acc`, `val/loss` and the rest.
        confusion: Counts `K K` (int64; label, prediction).
        logits: Those of the validation images.
    """

    alpha: float
    batchnorm: str
    metrics: dict[str, float]
    confusion: Tensor
    logits: CollectedLogits

    @property
    def badness(self) -> tuple[float, float]:
        """Sort key, least for the best: validation accuracy, then loss."""
        loss = self.metrics["val/loss"]
        return -self.metrics["val/acc"], math.inf if math.isnan(loss) else loss


def wise_soup(
    module: ImageClassifier, data: ImageDataModule, head: Weights, end: Weights, precision: str
) -> tuple[Weights, Candidate, dict[str, Any]]:
    """Return (1 - alpha) * head + alpha * end for the alpha that validates best, and leave it in the module.

    WiSE-FT (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", arXiv:2109.01903), with the network
    whose head alone has trained in the place of the zero-shot model. Where BatchNorm's statistics have moved, each
    alpha between the ends is tried with statistics between the two, and with those of the training images (see
    `training_statistics`): a head that has learned on pretrained statistics may not stand others.

    Args:
        module: The run's module, on the device that computes.
        data: Its data.
        head: Weights at the end of the head phase.
        end: Weights of the run.
        precision: Precision of the arithmetic, as in the run.

    Returns:
        The weights, on the CPU; the candidate that they are; and plain data on all candidates for run.json.
    """
    moved = [
        name
        for name in batchnorm_layers(module.net.backbone)
        if any(
            not torch.equal(head[key], end[key])
            for key in (f"net.backbone.{name}.running_mean", f"net.backbone.{name}.running_var")
        )
    ]
    tried: list[dict[str, Any]] = []
    best: tuple[Candidate, Weights] | None = None
    for alpha, batchnorm in ((alpha, way) for alpha in ALPHAS for way in (BETWEEN, ESTIMATED)):
        if batchnorm == BETWEEN:
            module.load_state_dict({name: _between(head[name], end[name], alpha) for name in end})
        elif moved and 0 < alpha < 1:
            statistics = training_statistics(module.net, data, moved)
            module.net.load_state_dict({**module.net.state_dict(), **statistics})
        else:
            continue
        found = Candidate(alpha, batchnorm, *_validated(module, data, precision))
        decisive = {name: found.metrics[name] for name in DECISIVE}
        tried.append({"alpha": alpha, "batchnorm": batchnorm, **decisive})
        if best is None or found.badness < best[0].badness:
            best = found, {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
    assert best is not None
    chosen, weights = best
    module.load_state_dict(weights)
    best_of: dict[float, float] = {}
    for one in tried:
        best_of[one["alpha"]] = max(one["val/acc"], best_of.get(one["alpha"], 0.0))
    accuracies = ", ".join(f"{alpha:g}: {accuracy:.1%}" for alpha, accuracy in best_of.items())
    log.info(
        "soup of head and end, val/acc by alpha: %s; alpha %g with BatchNorm's statistics %s is kept",
        *(accuracies, chosen.alpha, chosen.batchnorm),
    )
    return (
        weights,
        chosen,
        {
            "kind": WISE,
            "alpha": chosen.alpha,
            "batchnorm": chosen.batchnorm,
            "metrics": chosen.metrics,
            "candidates": tried,
        },
    )


def _between(first: Tensor, second: Tensor, alpha: float) -> Tensor:
    """Return the tensor between two, bitwise one of them at the ends and where they are equal, or are integers."""
    if alpha == 0:
        return first
    if alpha == 1 or not second.is_floating_point() or torch.equal(first, second):
        return second
    return torch.lerp(first, second, alpha)


def _validated(
    module: ImageClassifier, data: ImageDataModule, precision: str
) -> tuple[dict[str, float], Tensor, CollectedLogits]:
    """Return metrics, confusion counts and logits of the module as it is on the validation images."""
    metrics, samples = module.val_metrics.clone(), data.samples("val")
    counts = torch.zeros(len(module.classes), len(module.classes), dtype=torch.int64)
    collected = CollectedLogits(every_of(len(samples), len(module.classes)))
    total, count = 0.0, 0
    metrics.reset()
    for metric in metrics.values():
        metric.distributed_available_fn = None  # no other process is here, and waiting for them would never end
    for batch, logits in split_logits(module, data, "val", precision):
        labels = batch.label.to(module.device)
        with torch.inference_mode(), autocast(module.device, precision):
            total += float(each(module.loss, logits, labels).double().sum())
        count += len(labels)
        metrics.update(logits, labels)
        collected.add(logits.cpu(), batch.label, batch.index)
        counts += multiclass_confusion_matrix(logits, labels, len(module.classes), validate_args=False).cpu()
    values = {name: float(value) for name, value in metrics.compute().items() if value.numel() == 1}
    return {**values, "val/loss": total / count}, counts, collected
