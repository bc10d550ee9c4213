"""JPEG files decoded where the network computes: by nvJPEG on a GPU, through torchvision."""

import logging
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from tlab.data.decode import CV2_COLOR
from tlab.errors import UserError

log = logging.getLogger(__name__)

_failed = False  # in this process; then the CPU decodes for good


def decode_jpegs(contents: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Decode upright RGB JPEGs at full size.

    nvJPEG rounds in its own way and enlarges the colour planes in its own way, so its pixels are a little different
    from those of libjpeg, which decodes everywhere else in tlab. Where it fails, libjpeg decodes from then on.

    Args:
        contents: of the files, uint8.
        device: where the pixels are to be.

    Returns:
        3 H W, uint8, RGB, of each file, on the device.

    Raises:
        UserError: a file is damaged.
    """
    global _failed
    if device.type == "cuda" and not _failed:
        try:
            # copies: what came from a file's bytes must not be written to, which torch warns of
            files = [torch.from_numpy(content.copy()) for content in contents]
            return decode_jpeg(files, ImageReadMode.RGB, device=device)
        except RuntimeError as error:
            _failed = True
            reason = str(error).splitlines()[0]
            log.warning("data.decode_on=device: the GPU cannot decode (%s), so the CPU does from now on", reason)
    return [_decode(content).to(device, non_blocking=True) for content in contents]


def _decode(content: np.ndarray) -> Tensor:
    x_HWC = cv2.imdecode(content, CV2_COLOR)
    if x_HWC is None:
        raise UserError(
            "a JPEG file can no longer be read, though it could before training: data.decode_on=cpu, with another "
            "hydra.run.dir, says which"
        )
    return torch.from_numpy(x_HWC).permute(2, 0, 1)
