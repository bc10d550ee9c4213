"""Where in an image a network sees a class, as a heat map.

Jiang, Zhang, Hou, Cheng and Wei 2021, "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization".
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import cv2
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from tlab.core.errors import UserError
from tlab.core.machine_failures import explaining_memory, is_out_of_memory
from tlab.core.text import counted
from tlab.finetuning.features.stage_features import channel_axis
from tlab.models.classifier import Classifier
from tlab.models.stages import StagedBackbone
from tlab.runs.trained_model import TrainedModel

EXTRA = "heat maps need the package torchcam, which is not installed: give pip install 'tlab-transfer[explain]'"


class Grid(NamedTuple):
    """The positions of a stage's output.

    Attributes:
        stage: Name of the stage.
        rows: Number of rows of positions.
        columns: Number of columns.
        to_maps: Brings what the stage returns into maps `B C H W`.
    """

    stage: str
    rows: int
    columns: int
    to_maps: Callable[[Tensor], Tensor]


def heat_maps(model: TrainedModel, x: Tensor, classes: Tensor | None = None) -> Tensor:
    """Return how much each place of each image speaks for a class: `B S S`, float32 in 0..1, on the CPU.

    A map is that of the last stage whose positions the logits depend on, see `grids`: behind the last block of a
    transformer that classifies by its class token nothing depends on the patches any more. Each map's lowest value
    is 0 and its highest about 1; one of an image in which nothing speaks for the class is 0. The network is left as
    it was, but it is no more than one thread's at a time.

    Args:
        model: The trained network.
        x: Images as in `model.view`: uint8 `B 3 S S`.
        classes: The class that is asked for, of each image: `B`, int64; None: the most probable one.

    Raises:
        UserError: torchcam is not installed, no stage has positions or passes a gradient, or memory ran out.
    """
    if not torchcam_is_there():
        raise UserError(EXTRA)
    net, size = model.module.net, x.shape[-1]
    maps, lacks = None, "has positions to map"
    # A server predicts in inference mode, whose tensors have no gradients
    with (
        torch.inference_mode(False),
        torch.autocast(model.device.type, enabled=False),
        explaining_memory(
            lambda: f"memory ran out at {counted(len(x), 'heat map')}; give accelerator=cpu, or free some"
        ),
    ):
        x = model.module.to_memory_format(x.to(model.device))
        for grid in grids(net.backbone, size):
            found = _maps(net, x, grid, classes)
            if found is None:
                lacks = "passes a gradient from a class to its positions"
                continue
            maps, are_reached = found
            if are_reached:
                break
    if maps is None:
        raise UserError(f"no stage of this network ({', '.join(net.backbone.stage_names)}) {lacks}")
    return interpolate(maps[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0].clamp(0, 1).cpu()


def torchcam_is_there() -> bool:
    """Tell whether the extra `explain` is installed."""
    try:
        import torchcam.methods  # noqa: F401
    except ImportError:
        return False
    return True


def grids(backbone: StagedBackbone, image_size: int) -> Iterator[Grid]:
    """Yield the positions of each stage that has more than one, the last stage first."""
    for stage, shape in reversed(backbone.stage_shapes(image_size).items()):
        is_last = stage == backbone.stage_names[-1]
        axis = backbone.channel_axis if is_last else 1 + channel_axis(shape)
        if len(shape) == 3:
            rows, columns = (side for place, side in enumerate(shape, 1) if place != axis)
            if rows * columns > 1:
                yield Grid(stage, rows, columns, partial(torch.movedim, source=axis, destination=1))
        elif len(shape) == 2:
            tokens = shape[2 - axis]
            before, _ = backbone.tokens_before_patches(tokens)
            side = math.isqrt(tokens - before)
            if side > 1 and side**2 == tokens - before:
                yield Grid(stage, side, side, partial(_maps_of_tokens, axis=axis, before=before, side=side))


def overlay(square: Tensor, heat_map: Tensor) -> Tensor:
    """Return an image under its heat map, in the perceptually uniform colors of Inferno: uint8 `3 S S`.

    Args:
        square: The image: uint8 `3 S S`.
        heat_map: Its heat map: `S S`, in 0..1.
    """
    levels = (255 * heat_map).round().to(torch.uint8).numpy()
    colors_HWC = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    colors = torch.from_numpy(colors_HWC).permute(2, 0, 1)
    return ((square.cpu().int() + colors.int()) // 2).to(torch.uint8)


def _maps_of_tokens(tokens: Tensor, axis: int, before: int, side: int) -> Tensor:
    """Return the patches among tokens, `B N C` or, with channels at axis 1, `B C N`, as maps `B C side side`."""
    return tokens.movedim(axis, 1)[:, :, before:].unflatten(2, (side, side))


def _maps(net: Classifier, x: Tensor, grid: Grid, classes: Tensor | None) -> tuple[Tensor, bool] | None:
    """Return the maps of a stage, `B rows columns`, and whether the logits depend on its positions.

    None where it passes no gradient at all, as behind an operation that has none.

    Args:
        net: The network.
        x: Images `B 3 S S`, uint8.
        grid: The stage.
        classes: As for `heat_maps`.
    """
    from torchcam.methods import LayerCAM

    backbone = net.backbone
    place = backbone.stage_names.index(grid.stage)
    with torch.no_grad():  # nothing is asked of what comes before
        x = net.normalize(x)
        if place:
            x = backbone.forward_stages(x, stop=backbone.stage_names[place - 1])
    with (
        torch.enable_grad(),
        LayerCAM(net, backbone.stages[grid.stage], reshape_transform=grid.to_maps) as layer_cam,
    ):
        x = x.requires_grad_().clone()  # a stage may begin with what changes its input
        logits = net.head(backbone.forward_stages(x, start=grid.stage))
        asked = logits.argmax(dim=1) if classes is None else classes
        try:
            (maps,) = layer_cam(asked.tolist(), logits)
        except (RuntimeError, AssertionError) as error:
            if is_out_of_memory(error):
                raise
            return None
        return maps.float(), bool(layer_cam.hook_g[0].any())
