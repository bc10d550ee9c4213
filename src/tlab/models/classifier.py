"""Backbone and head as groups that can be frozen, with normalization in front."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tlab.core.errors import UserError
from tlab.models.freezing import FreezableGroups
from tlab.models.head import Head
from tlab.models.stages import StagedBackbone, digest

__all__ = ["POOL", "Classifier", "Normalize", "digest"]

POOL = "pool"  # stands for the head's pooling, after the last stage

# Parts of names of learned embeddings and scales, which weight decay would pull to zero for no reason
# (torchvision's recipes for ViT and Swin exempt the same; layer scale is 3-dimensional in its ConvNeXt).
EMBEDDINGS = (
    *("class_token", "cls_token", "dist_token", "reg_token", "pos_embed", "position_embedding"),
    *("relative_position_bias", "layer_scale"),
)


class Normalize(nn.Module):
    """Turn uint8 (0..255) or float (0..1) RGB images `B C H W` into normalized float32.

    Args:
        mean: Mean per channel, of values in 0..1.
        std: Standard deviation per channel, of values in 0..1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(tuple(mean), dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(tuple(std), dtype=torch.float32).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return `(x - mean) / std`, of the same shape."""
        scaled = x.to(self.mean.dtype) / 255 if x.dtype == torch.uint8 else x
        return (scaled - self.mean) / self.std


class Classifier(FreezableGroups):
    """Maps images to logits; any set of its groups (the stages and "head") trains, and the others are frozen.

    Args:
        backbone: The staged feature extractor.
        head: The module that maps features to logits.
        mean: Mean of the images per channel, of values in 0..1.
        std: Standard deviation of the images per channel, of values in 0..1.

    Attributes:
        fixed_batchnorm: Whether BatchNorm in the backbone keeps its statistics in stages that train too; its scale
            and shift then train alone.
    """

    def __init__(self, backbone: StagedBackbone, head: Head, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__((*backbone.stage_names, "head"))
        self.normalize = Normalize(mean, std)
        self.backbone = backbone
        self.head = head
        self.fixed_batchnorm = False

    def group(self, name: str) -> nn.Module:
        """Return the stage called `name`, or the head.

        Raises:
            UserError: There is no such group.
        """
        if name not in self.group_names:
            raise UserError(
                f"there is no stage {name!r} in this network, its groups are {', '.join(self.group_names)}"
            )
        return self.head if name == "head" else self.backbone.stages[name]

    def train(self, mode: bool = True) -> Self:
        """Set the mode of what trains; BatchNorm that is fixed stays in evaluation mode."""
        super().train(mode)
        if self.fixed_batchnorm:
            for layer in self.backbone.modules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()
        return self

    def forward(self, x: Tensor, after: str = "") -> Tensor:
        """Map images `B C H W` (uint8, or float in 0..1) to logits `B K`.

        Args:
            x: Images, or what `prefix` returned for them.
            after: The last stage that `prefix` ran, or `POOL`; "" for images.
        """
        return self.trained_part(*self.frozen_part(x, after))

    def frozen_part(self, x: Tensor, after: str = "") -> tuple[Tensor, str]:
        """Run the stages before the first one that trains, without a graph; arguments as for `forward`.

        Returns:
            Arguments of `trained_part`: x, and the last stage that it has been through.
        """
        frozen = self.frozen_stages
        if after == POOL or len(frozen) <= self._ran(after):
            return x, after
        with torch.no_grad():
            return self._stages(x, after, frozen[-1]), frozen[-1]

    def trained_part(self, x: Tensor, after: str) -> Tensor:
        """Return the logits `B K` of what `frozen_part` returned."""
        if after != POOL:
            x = self._stages(x, after, self.backbone.stage_names[-1])
        return self.head(x)

    @property
    def frozen_stages(self) -> tuple[str, ...]:
        """Names of the stages before the first one that trains."""
        names = self.backbone.stage_names
        return names[: next((i for i, name in enumerate(names) if name in self.trainable), len(names))]

    def prefix(self, x: Tensor, upto: str, after: str = "") -> Tensor:
        """Run only the first stages, to `upto`; `POOL`: all of them, and the head's pooling.

        Returns:
            `B D` for `POOL`, else a stage's output: x of `forward` with `after=upto`; arguments as there.
        """
        last = self.backbone.stage_names[-1]
        x = self._stages(x, after, last if upto == POOL else upto)
        return self.head.pool(x) if upto == POOL else x

    def _stages(self, x: Tensor, after: str, upto: str) -> Tensor:
        """Run the stages that follow `after`, to `upto`; none if `upto` is no later one."""
        ran = self._ran(after)
        if ran == 0:
            x = self.normalize(x)
        if ran >= self._ran(upto):
            return x
        return self.backbone.forward_stages(x, start=self.backbone.stage_names[ran], stop=upto)

    def _ran(self, stage: str) -> int:
        """Return how many stages have run when `stage` has."""
        return self.backbone.stage_names.index(stage) + 1 if stage else 0

    def parameter_groups(self) -> dict[str, dict[str, list[nn.Parameter]]]:
        """Return per group its parameters under "decay" and "no_decay" (biases, norms, learned embeddings).

        All parameters are listed, frozen or not, each once (a shared one with the first group that has it).
        """
        seen: set[nn.Parameter] = set()
        groups: dict[str, dict[str, list[nn.Parameter]]] = {}
        for name in self.group_names:
            split = split_by_decay(self.group(name))
            groups[name] = {key: [each for each in own if each not in seen] for key, own in split.items()}
            seen.update(*split.values())
        return groups


def split_by_decay(module: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return a module's parameters under "decay" and "no_decay" (biases, norms, learned embeddings)."""
    split: dict[str, list[nn.Parameter]] = {"decay": [], "no_decay": []}
    for name, parameter in module.named_parameters():
        exempt = parameter.ndim <= 1 or any(word in name for word in EMBEDDINGS)
        split["no_decay" if exempt else "decay"].append(parameter)
    return split
