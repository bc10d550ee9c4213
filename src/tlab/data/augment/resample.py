"""Resizing, flipping and warping of images H W 3, uint8."""

import math
import warnings

import cv2
import numpy as np
import torch
from torch.nn.functional import interpolate

Color = tuple[float, float, float]  # RGB in 0..255

# Arrays of read-only memory are never written to here, but torch warns of them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")

_WARP_LIMIT = 32_000  # cv2.warpAffine takes sources of less than 2 ** 15 pixels a side


def resized(x_HWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (height, width) as torchvision does: bilinear, with antialiasing where a side shrinks.

    torch's kernel for uint8 is faster than OpenCV's INTER_AREA.
    """
    if x_HWC.shape[:2] == size:
        return x_HWC
    x_1CHW = torch.from_numpy(x_HWC).permute(2, 0, 1)[None]
    return interpolate(x_1CHW, size=size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()


def flipped(x_HWC: np.ndarray, horizontal: bool, vertical: bool) -> np.ndarray:
    """Swap left and right, or top and bottom, or both."""
    if not (horizontal or vertical):
        return x_HWC
    return cv2.flip(np.ascontiguousarray(x_HWC), 1 if not vertical else -1 if horizontal else 0)


def warped(x_HWC: np.ndarray, matrix: np.ndarray, size: tuple[int, int], fill: Color | None) -> np.ndarray:
    """Resample by an affine matrix (bilinear); an image that the warp shrinks is first resized with antialiasing.

    Args:
        x_HWC: Image H W 3, uint8.
        matrix: Affine map 3 x 3, from output to input, in continuous coordinates.
        size: Height and width of the output in pixels.
        fill: Color outside the image, RGB in 0..255; None repeats the border pixels.
    """
    height, width = x_HWC.shape[:2]
    # Input pixels from one output pixel to the next, along the width and the height of the input
    shrink = [max(1.0, math.hypot(row[0], row[1])) for row in matrix[:2]]
    reduced = [min(_WARP_LIMIT, max(1, round(side / by))) for side, by in zip((width, height), shrink, strict=True)]
    x_HWC = resized(x_HWC, (reduced[1], reduced[0]))
    matrix = (np.diag([reduced[0] / width, reduced[1] / height, 1.0]) @ matrix)[:2]
    matrix[:, 2] += 0.5 * (matrix[:, 0] + matrix[:, 1]) - 0.5  # cv2 counts from the center of the first pixel
    return cv2.warpAffine(
        x_HWC,
        matrix,
        (size[1], size[0]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE if fill is None else cv2.BORDER_CONSTANT,
        borderValue=fill or (0, 0, 0),
    )
