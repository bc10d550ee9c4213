"""Losses of logits `B K` and targets: class numbers `B` (int64), or probabilities `B K` (float, from mixing)."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlab.core.error_messages import one_line
from tlab.core.errors import UserError

Loss = Callable[[Tensor, Tensor], Tensor]  # returns one value an image, `B`, or one number for the batch

NEAR = torch.finfo(torch.float32).eps  # where 1 - p is less, the gradient of its power would be infinite


class CrossEntropy(nn.Module):
    """Cross-entropy, - sum_k t_k log p_k with p = softmax(logits) and targets t.

    Label smoothing (Szegedy et al. 2016) and class weights are for training. In evaluation mode there are neither,
    so that runs that differ in them can be compared.

    Args:
        label_smoothing: Share of each target that is spread over all classes, in 0..1.
        class_weights: Weight of each class, `K` (float); None for equal weights.
    """

    class_weights: Tensor | None

    def __init__(self, label_smoothing: float = 0.0, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the batch, weighted as in torch; in evaluation mode one value an image, `B`."""
        if not self.training:
            return F.cross_entropy(logits, target, reduction="none")
        return F.cross_entropy(logits, target, self.class_weights, label_smoothing=self.label_smoothing)


class LogitAdjusted(CrossEntropy):
    """Cross-entropy of logits + tau log pi, where pi are the classes' shares of the training images.

    From Menon et al. 2021, "Long-tail learning via logit adjustment", equation 10. Predictions take the logits as
    they are, which so become the best ones for the mean accuracy over the classes (tau = 1).

    Args:
        class_counts: Number of training images of each class, `K`; a class without one counts as having one.
        tau: Strength of the adjustment; 0 gives cross-entropy.
        label_smoothing: As for `CrossEntropy`.
        class_weights: As for `CrossEntropy`.
    """

    adjustment: Tensor

    def __init__(
        self,
        class_counts: Tensor,
        tau: float = 1.0,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__(label_smoothing, class_weights)
        counts = class_counts.float().clamp(min=1)
        self.register_buffer("adjustment", tau * (counts / counts.sum()).log(), persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the same as `CrossEntropy` of the adjusted logits."""
        return super().forward(logits + self.adjustment, target)


class Focal(CrossEntropy):
    """Focal loss, - sum_k t_k (1 - p_k)^gamma log p_k, with p = softmax(logits) and targets t.

    From Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 4, over K classes; the class weights are
    its alpha (equation 5).

    Args:
        gamma: How much less the images count whose right answer is certain; 0 gives cross-entropy.
        label_smoothing: As for `CrossEntropy`.
        class_weights: As for `CrossEntropy`.
    """

    def __init__(
        self, gamma: float = 2.0, label_smoothing: float = 0.0, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(label_smoothing, class_weights)
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the same as `CrossEntropy`: a mean, or in evaluation mode one value an image."""
        log_p = logits.log_softmax(dim=1)
        terms = -(1 - log_p.exp()).clamp(min=NEAR).pow(self.gamma) * log_p
        shares = _probabilities(target, logits)
        if not self.training:
            return (shares * terms).sum(dim=1)
        terms = ((1 - self.label_smoothing) * shares + self.label_smoothing / logits.shape[1]) * terms
        if self.class_weights is None:
            return terms.sum() / len(target)
        images = self.class_weights[target].sum() if target.ndim == 1 else len(target)  # as torch divides
        return (terms * self.class_weights).sum() / images


class OneHot(nn.Module):
    """Gives a loss that takes probabilities alone (such as `BCEWithLogitsLoss`) class numbers as such."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return what the loss returns."""
        return self.loss(logits, _probabilities(target, logits))


def each(loss: Loss, logits: Tensor, target: Tensor) -> Tensor:
    """Return one value an image, `B`; a loss that gives one number for a batch is asked image by image."""
    values = loss(logits, target)
    if values.ndim:
        return values
    return torch.stack([loss(logits[i : i + 1], target[i : i + 1]) for i in range(len(logits))])


def fitting(loss: Loss, name: str, num_classes: int, mixes: bool, weighted: bool) -> Loss:
    """Try a loss on a few logits, and return it; in `OneHot` if it takes no class numbers.

    Args:
        loss: The loss; a copy is tried.
        name: Its name, for messages.
        num_classes: Number of classes K.
        mixes: Whether it will get probabilities in training, because images are mixed.
        weighted: Whether class weights are to be applied to what it returns.

    Raises:
        UserError: It cannot be computed, or returns something else than it should.
    """
    numbers = torch.arange(3 if num_classes != 3 else 4) % num_classes
    shares = F.one_hot(numbers, num_classes).float().mul(0.5).add(0.5 / num_classes)
    value = first = _tried(loss, numbers, num_classes)
    if isinstance(first, Exception):
        loss = OneHot(loss)
        value = _tried(loss, numbers, num_classes)
    mixed = _tried(loss, shares, num_classes) if mixes else None
    if isinstance(value, Exception):
        why = f"cannot be computed from logits B K and class numbers B ({one_line(first)})"
        way_out = "correct it"
    elif isinstance(mixed, Exception):
        why = f"takes no probabilities B K ({one_line(mixed)}), which mixed images have"
        way_out = "give aug.mix=null"
    elif not isinstance(value, Tensor) or value.shape not in ((), numbers.shape):
        told = f"values of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        why = f"returns {told} for {len(numbers)} images, not one value an image or one number"
        way_out = "give its reduction, if it has one"
    elif not value.requires_grad:
        why, way_out = "has no gradient, so nothing can train", "correct it"
    elif weighted and not value.ndim:
        why = "returns one number, and data.class_weights=true needs one value an image"
        way_out = "give +loss.reduction=none, if it has that key, or data.balanced=true instead"
    else:
        return loss
    raise UserError(f"loss._target_={name} {why}; {way_out}, or choose loss=cross_entropy")


def _tried(loss: Loss, target: Tensor, num_classes: int) -> Any:
    """Return what a copy of the loss returns for random logits, or how it failed."""
    logits = torch.randn(len(target), num_classes, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            return copy.deepcopy(loss)(logits.requires_grad_(), target)
        except Exception as error:  # a loss can fail in any way
            return error


def _probabilities(target: Tensor, logits: Tensor) -> Tensor:
    """Return targets as probabilities `B K`."""
    return F.one_hot(target, logits.shape[1]).to(logits.dtype) if target.ndim == 1 else target
