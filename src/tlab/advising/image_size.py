"""The size at which images are best seen: by that of the weights, by the images' own, and by a probe."""

import copy
import warnings
from contextlib import suppress

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from tlab.assembly.build import build_backbone, build_net
from tlab.config.provenance import with_value
from tlab.core.errors import UserError
from tlab.core.measurements import remembered
from tlab.data import progress_bar
from tlab.data.datamodule import ImageDataModule
from tlab.finetuning.batchnorm import EQUAL, held_out_loss, statistics_digest
from tlab.models.autotune.precision import find_accelerator

LOOKED_AT = 200  # images whose own size is looked at
STEP, SMALLEST = 32, 64  # pixels: sizes below the weights' own are multiples of the one, and not below the other
KEY = "data.image_size"


def choose_image_size(cfg: DictConfig, data: ImageDataModule) -> tuple[int, str]:
    """Return the size at which images are seen, and why, in words.

    It is that of the configuration, if one is set there; else that of the images with which the weights were
    trained, or the images' own where they are smaller. Weights of small images often suit larger ones too (Touvron
    et al. 2019, "Fixing the train-test resolution discrepancy"), and a file of weights may tell no size: then the
    size is the smallest of some at which the held-out loss of a probe counts as equal to the least.

    Args:
        cfg: Configuration of a run.
        data: Its images, set up.

    Raises:
        UserError: The backbone or its weights cannot be had.
    """
    if not OmegaConf.is_interpolation(cfg.data, "image_size"):  # the default one, of the backbone
        return cfg.data.image_size, f"Images are seen at {cfg.data.image_size} px, as given"
    weights, side = build_backbone(cfg).pretraining, shorter_side(data)
    is_random = cfg.backbone.weights is None or not cfg.finetune.pretrained
    if is_random:
        sizes, of_weights = [weights.input_size], f"the network is made for {weights.input_size} px"
    elif weights.tells_size:
        sizes = [weights.input_size, 2 * weights.input_size]
        sizes = [size for size in sizes if size <= max(weights.input_size, cfg.backbone.input_size)]
        of_weights = f"the weights have seen theirs at {weights.input_size} px"
    else:
        sizes = [SMALLEST, 2 * SMALLEST, weights.input_size]
        of_weights = "the weights do not tell at which size they have seen theirs"
    largest = max(SMALLEST, -(-side // STEP) * STEP) if side else max(sizes)
    within = [size for size in sorted({min(size, largest) for size in sizes}) if _is_taken(cfg, size)]
    why = of_weights if largest >= max(sizes) else f"{of_weights}, and half of the images have {side} px or less"
    if len(within) < 2:
        size = within[0] if within else weights.input_size
        return size, f"Images are seen at {size} px: {why}"
    losses = {}
    for size in progress_bar.shown(within, "Comparing image sizes", len(within)):
        losses[size] = _loss(with_value(cfg, KEY, size), data)
    chosen = min(size for size, loss in losses.items() if loss <= EQUAL * min(losses.values()))
    told = ", ".join(f"{loss:.3f} at {size} px" for size, loss in losses.items())
    return chosen, (
        f"Images are seen at {chosen} px, the smallest size at which a probe's loss is near the least ({told}): "
        f"{why}"
    )


def shorter_side(data: ImageDataModule) -> int | None:
    """Return the median of the shorter sides of some training images in pixels; None where none can be read."""
    samples = data.samples("train")
    sides = []
    for number in range(0, len(samples), max(1, len(samples) // LOOKED_AT)):
        with suppress(Exception), warnings.catch_warnings():  # whatever a damaged file makes of the reader
            warnings.simplefilter("ignore")
            with Image.open(samples[number].file) as image:
                sides.append(min(image.size))
    return int(np.median(sides)) if sides else None


def _is_taken(cfg: DictConfig, size: int) -> bool:
    """Tell whether the network takes images of this size; it is known to be had."""
    try:
        build_backbone(with_value(cfg, KEY, size))
    except UserError:
        return False
    return True


def _loss(cfg: DictConfig, data: ImageDataModule) -> float:
    """Return the held-out loss of a probe on training images of a configuration's size."""
    data = copy.copy(data)
    data.image_size = cfg.data.image_size
    net = build_net(cfg, build_backbone(cfg), data).eval()
    device = torch.device(find_accelerator(cfg.trainer.accelerator))
    return float(
        remembered(
            "image_sizes", statistics_digest(net, data), lambda: {"loss": held_out_loss(net.to(device), data)}
        )["loss"]
    )
