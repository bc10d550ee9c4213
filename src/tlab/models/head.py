"""The new classifier: pooling, dropout, and a linear layer or a small MLP."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from tlab.core.errors import UserError

Pooling = Literal["avg", "max", "avgmax", "token", "token_avg"]


class Standardize(nn.BatchNorm1d):
    """Bring each feature to mean 0 and variance 1, without a scale or shift that trains.

    So the learning rate of a linear probe does not depend on the scale of a backbone's features (He et al. 2022,
    "Masked Autoencoders Are Scalable Vision Learners", appendix A.1). A batch of one, which has no variance, is
    standardized by the running statistics.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map features `B C` to `B C`."""
        if self.training and len(x) == 1:
            return batch_norm(x, self.running_mean, self.running_var, eps=self.eps)
        return super().forward(x)


class Head(nn.Module):
    """Pool features and classify them.

    The last layer starts at zero (as in BiT, Kolesnikov et al. 2020): the first loss is exactly ln K, the first
    step sends no noise of random rows into the backbone, and a linear probe, being convex, ends at the same place.
    `tlab.models.head_init` may then fill in rows of classes that the weights know.
    Hidden layers start as in He et al. 2015 (fan-in, ReLU), drawn from torch's global generator.

    Args:
        in_features: Channels of the features.
        num_classes: Number of logits, K.
        pooling: Pooling over positions: "avg", "max", or "avgmax" = their mean (as in timm); of tokens also
            "token", the class token, or "token_avg", that and the mean of the patches one after the other (2 C
            features, as in the linear evaluation of Oquab et al. 2023, "DINOv2", appendix B.3).
        dropout: Dropout probability before each linear layer.
        hidden: Widths of hidden layers (Linear, ReLU); empty: a linear classifier.
        normalize: Whether to standardize each pooled feature first, see `Standardize`.
        prefix_tokens: Number of tokens before the patches (class token, registers), left out of means and maxima.

    Attributes:
        pooled_features: Number of features after pooling.
        reused: Class -> source class, for the rows initialized from the source classifier.

    Raises:
        UserError: An option is out of range.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        pooling: Pooling = "avg",
        dropout: float = 0.0,
        hidden: Sequence[int] = (),
        normalize: bool = False,
        prefix_tokens: int = 0,
    ) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise UserError(f"head.pooling={pooling} is unknown, choose one of {', '.join(get_args(Pooling))}")
        if not 0 <= dropout < 1:
            raise UserError(f"head.dropout={dropout} is no probability below 1, choose for example 0.2")
        if any(not isinstance(width, int) or width < 1 for width in hidden):
            raise UserError(f"head.hidden={list(hidden)} must list widths of at least 1, for example [512]")
        self.pooling, self.prefix_tokens = pooling, prefix_tokens
        self.pooled_features = in_features = 2 * in_features if pooling == "token_avg" else in_features
        self.norm = Standardize(in_features) if normalize else nn.Identity()
        self.hidden = nn.Sequential()
        for width in hidden:
            layer = nn.Linear(in_features, width)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
            self.hidden.extend([nn.Dropout(dropout), layer, nn.ReLU()])
            in_features = width
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(in_features, num_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.reused: dict[str, str] = {}

    def forward(self, features: Tensor) -> Tensor:
        """Map features to logits `B K`; see `pool` for the shapes it takes."""
        return self.linear(self.dropout(self.hidden(self.norm(self.pool(features)))))

    def pool(self, features: Tensor) -> Tensor:
        """Pool features, see the function `pool`."""
        return pool(features, self.pooling, self.prefix_tokens)


def pool(features: Tensor, pooling: Pooling, prefix_tokens: int = 0) -> Tensor:
    """Pool maps `B C H W`, or tokens `B N C` without the first `prefix_tokens`; `B C` is returned as it is."""
    if features.ndim == 2:
        return features
    if pooling == "token":
        return features[:, 0]
    if pooling == "token_avg":
        return torch.cat([features[:, 0], features[:, prefix_tokens:].mean(1)], dim=1)
    if features.ndim == 3:
        features = features[:, prefix_tokens:]
    axes = (2, 3) if features.ndim == 4 else (1,)
    if pooling == "avg":
        return features.mean(axes)
    if pooling == "max":
        return features.amax(axes)
    return torch.add(features.mean(axes), features.amax(axes)).mul(0.5)
