"""A backbone as an ordered list of named stages."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from tlab.core.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in 0..1; torchvision.transforms._presets.ImageClassification
IMAGENET_STD = (0.229, 0.224, 0.225)
# Parameters `1 n C` that a transformer puts in front of its patches, by the names of timm and torchvision.
CLASS_TOKENS = ("cls_token", "class_token")
PREFIX_TOKENS = (*CLASS_TOKENS, "dist_token", "reg_token")
Tokens = Literal["pooled", "apart", "mixed"]


@dataclass(frozen=True)
class Pretraining:
    """What a backbone was trained with.

    Attributes:
        input_size: Side of the training images in pixels; 0 where a file does not tell.
        mean: Mean per channel, of RGB in 0..1.
        std: Standard deviation per channel, of RGB in 0..1.
        classes: Names of the source classes, where known.
        classifier_weight: Rows of the source classifier `K D` (float32, CPU), where known.
        classifier_bias: Bias of the source classifier `K` (float32, CPU), where known.
        classifier_fits: Whether the source model's logits are these rows applied to this backbone's features,
            averaged over positions (of a tlab head: as it pools them): False behind a cut, and where `classes` or
            rows are not known.
        pooling: Pooling of the tlab head that the rows belong to; None: they are the original model's classifier.
        head_layers: What this head has before its last layer, its hidden layers and norm, by key.
        description: Origin of the weights, in words.
        digest: `digest` of the backbone as built.
        tells_size: Whether the weights told `input_size`; False: it is what the network is made for.
    """

    input_size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    classes: tuple[str, ...] | None = None
    classifier_weight: Tensor | None = None
    classifier_bias: Tensor | None = None
    classifier_fits: bool = False
    pooling: str | None = None
    head_layers: Mapping[str, Tensor] = field(default_factory=dict)
    description: str = "random initialization"
    digest: str = ""
    tells_size: bool = True


class StagedBackbone(nn.Module):
    """A feature extractor made of named stages, each one tensor in and one tensor out.

    Its state-dict keys are `stages.<stage>.<path in the original model>`.

    Args:
        stages: Name -> module, in forward order.
        pretraining: What the weights were trained with.
        image_size: Side in pixels of the images it will get; the output's layout is found with one such image.
        tokens: Layout of the last output's tokens, if any: "pooled" by the network itself, or those that it pools;
            "apart" with class token and registers before the patches, if it has them; "mixed" likewise, but all
            count as patches, as in earlier versions.
        variant: What distinguishes the network from others with the same layers and weights.

    Attributes:
        prefix_tokens: Number of tokens of the last output `B N C` before the patches.
        has_class_token: Whether the first of them is a class token.

    Raises:
        UserError: The images are too small (or of a size that the network does not take).
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        pretraining: Pretraining,
        image_size: int,
        tokens: Tokens = "pooled",
        variant: str = "",
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(stages)
        self.stage_names = tuple(stages)
        self.pretraining = pretraining
        self._shapes: dict[int, dict[str, tuple[int, ...]]] = {}  # by image size
        shape = self.stage_shapes(image_size)[self.stage_names[-1]]
        self.channel_axis = self._channel_axis(shape, image_size)
        self.feature_dim = shape[self.channel_axis - 1]
        self.tokens, self.variant = tokens, variant
        self.prefix_tokens, self.has_class_token = 0, False
        if tokens == "apart" and len(shape) == 2:
            self.prefix_tokens, self.has_class_token = self.tokens_before_patches(shape[2 - self.channel_axis])

    def forward(self, x: Tensor) -> Tensor:
        """Map normalized images `B C H W` to features `B C H W`, tokens `B N C`, or vectors `B C`."""
        return self.forward_stages(x)

    def forward_stages(self, x: Tensor, start: str | None = None, stop: str | None = None) -> Tensor:
        """Run the stages from `start` to `stop`, both included.

        Args:
            x: Images, or what the stage before `start` returned.
            start: First stage; None: the first there is.
            stop: Last stage; None: the last there is.

        Returns:
            The output of `stop` as the next stage wants it; after the last stage with channels at axis 1 for maps
            and at axis 2 for tokens, whatever layout the network uses inside.
        """
        first = 0 if start is None else self.stage_names.index(start)
        last = len(self.stage_names) - 1 if stop is None else self.stage_names.index(stop)
        for name in self.stage_names[first : last + 1]:
            x = self.stages[name](x)
        if last == len(self.stage_names) - 1 and x.ndim > 2:
            x = x.movedim(self.channel_axis, 1 if x.ndim == 4 else 2)
        return x

    def stage_shapes(self, image_size: int) -> dict[str, tuple[int, ...]]:
        """Return the output shape of each stage, without the batch axis, for a blank image, run once for each size.

        Raises:
            UserError: The network does not take images of this size.
        """
        if image_size in self._shapes:
            return self._shapes[image_size]
        shapes: dict[str, tuple[int, ...]] = {}
        try:
            with evaluating(self):
                x = blank_image(self, image_size)
                for name in self.stage_names:
                    x = self.stages[name].forward(x)  # calling a graph module would also print what it raises
                    shapes[name] = tuple(x.shape[1:])
        except Exception as error:  # whatever a layer raises when its input has another size than it wants
            reason = str(error).splitlines()[0].strip() if str(error) else type(error).__name__
            raise UserError(
                f"data.image_size={image_size} does not suit this backbone ({reason}), "
                f"try data.image_size={self.pretraining.input_size}"
            ) from error
        self._shapes[image_size] = shapes
        return shapes

    def tokens_before_patches(self, tokens: int) -> tuple[int, bool]:
        """Return how many of the `tokens` are no patches, and whether there is a class token.

        Images are square, and so is the number of patches; else the stages use these parameters in another way.
        """
        found = {name.rpartition(".")[2]: parameter for name, parameter in self.named_parameters()}
        number = sum(found[name].shape[1] for name in PREFIX_TOKENS if name in found)
        patches = tokens - number
        if patches < 1 or math.isqrt(patches) ** 2 != patches:
            return 0, False
        return number, any(name in found for name in CLASS_TOKENS)

    def _channel_axis(self, shape: tuple[int, ...], image_size: int) -> int:
        """Find the axis of channels of the last output (batch is axis 0).

        Images are square, so of three axes the two equal ones are the positions. Where that does not tell, channels
        are the axis that does not grow with the image; where only one size can be taken, `N C` and `C H W` it is.
        """
        if len(shape) == 1:
            return 1
        if len(shape) > 3:
            raise UserError(f"this backbone returns features of shape {shape}, tlab takes maps, tokens and vectors")
        if len(shape) == 3 and len(set(shape)) > 1:
            return 3 if shape[0] == shape[1] else 1
        try:
            other = self.stage_shapes(2 * image_size)[self.stage_names[-1]]
        except UserError:
            other = ()
        fixed = [axis for axis, (size, grown) in enumerate(zip(shape, other, strict=False), 1) if size == grown]
        return fixed[0] if len(fixed) == 1 else {2: 2, 3: 1}[len(shape)]


def blank_image(module: nn.Module, size: int) -> Tensor:
    """Return a black image `1 3 H W` with the type and on the device of the module's parameters."""
    own = next(module.parameters())
    return torch.zeros(1, 3, size, size, device=own.device, dtype=own.dtype)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` in evaluation mode in the block, without gradients; restore each submodule's mode after it."""
    modes = {child: child.training for child in module.modules()}
    try:
        module.eval()
        with torch.no_grad():
            yield
    finally:
        for child, mode in modes.items():
            child.training = mode


def digest(module: nn.Module) -> str:
    """Return the SHA-256 (hex, first 16 digits) of all parameters and buffers of `module`, with their names."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Kernels in channels-last order: converting them to another takes longer than hashing
        values = tensor.movedim(1, -1) if tensor.ndim == 4 else tensor
        sha.update(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()[:16]
