"""Precision-recall curves of the classes in TensorBoard."""

from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from tlab.dashboards.tensorboard import class_names, collects, writer

THRESHOLDS = 127  # TensorBoard's own number
MOST_CLASSES = 50


class PrecisionRecall(L.Callback):
    """Draws one curve per class, `pr/<class>`, of the last validation epoch when the fit ends.

    Each class is held against all others by its softmax probability at 127 thresholds. Of more than 50 classes only
    the 50 with the lowest average precision are drawn. A class without a validation image has no curve.
    Only counts are kept (2 x K x 127), so memory does not grow with the number of images.
    """

    def __init__(self) -> None:
        self._counts: Tensor | None = None  # `2 K T` int64: images of other classes, of the class; per bin

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting."""
        self._counts = None
        if collects(trainer):
            shape = (2, len(class_names(pl_module)), THRESHOLDS)
            self._counts = torch.zeros(shape, dtype=torch.int64, device=pl_module.device)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Count a batch."""
        if self._counts is not None:
            self._counts += bin_counts(outputs["logits"].softmax(dim=1), batch.label)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sum the counts over the processes."""
        if self._counts is not None and trainer.world_size > 1:
            self._counts = trainer.strategy.reduce(self._counts, reduce_op="sum")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the curves."""
        board = writer(trainer)
        if board is None or self._counts is None:
            return
        from torch.utils.tensorboard.summary import pr_curve_raw  # slow, and there is a board only sometimes

        fp_KT, tp_KT = self._counts.cpu().double().flip(2).cumsum(2).flip(2)  # at or above each threshold
        precision_KT = tp_KT / (tp_KT + fp_KT).clamp(min=1)
        recall_KT = tp_KT / tp_KT[:, :1].clamp(min=1)
        curves = torch.stack([tp_KT, fp_KT, fp_KT[:, :1] - fp_KT, tp_KT[:, :1] - tp_KT, precision_KT, recall_KT])
        present = tp_KT[:, 0].nonzero().flatten()
        order = average_precision(precision_KT, recall_KT)[present].argsort()[:MOST_CLASSES]
        for k in present[order].tolist():
            tp, fp, tn, fn, precision, recall = curves[:, k].numpy()
            tag = f"pr/{class_names(pl_module)[k]}"
            curve = pr_curve_raw(tag, tp, fp, tn, fn, precision, recall, THRESHOLDS)
            board._get_file_writer().add_summary(curve, trainer.global_step)


def bin_counts(probabilities_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Count the images of other classes (first) and of the class by probability: `2 K 127`, int64.

    Bin t holds the probabilities from t / 126 up to below (t + 1) / 126, as TensorBoard's own binning does.
    """
    K = probabilities_BK.shape[1]
    bins_BK = (probabilities_BK * (THRESHOLDS - 1)).long().clamp(0, THRESHOLDS - 1)
    columns_K = torch.arange(K, device=labels_B.device)
    own_BK = (labels_B[:, None] == columns_K).long()
    flat = (own_BK * K + columns_K) * THRESHOLDS + bins_BK
    return torch.bincount(flat.flatten(), minlength=2 * K * THRESHOLDS).reshape(2, K, THRESHOLDS)


def average_precision(precision_KT: Tensor, recall_KT: Tensor) -> Tensor:
    """Return `K` sums of precision times gained recall over ascending thresholds (scikit-learn's definition)."""
    gained_KT = recall_KT - torch.cat([recall_KT[:, 1:], torch.zeros_like(recall_KT[:, :1])], dim=1)
    return (precision_KT * gained_KT).sum(dim=1)
