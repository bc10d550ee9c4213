"""The evaluation transform as tensor arithmetic that an exported graph can hold, for images of any size."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tlab.data.augment.evaluation import MEAN_COLOR, THIN, ResizeCrop, ResizePad

BITS = range(1, 23)  # of the weights' common denominator 2^b
LARGEST_WEIGHT = 2**15  # exclusive, of an integer weight


class Preprocessing(nn.Module):
    """Make images squares as `ResizeCrop` and `ResizePad` do, to the pixel.

    Both axes are resampled by one matrix product each, of a matrix that follows from the size of the image: so the
    sizes may change from call to call, crop and padding cost nothing, and no runtime's own way of resizing matters.
    Weights are triangles, wider than a pixel where an axis shrinks (antialiasing), rounded to the integers that
    torch's kernel for uint8 uses, which also rounds the pixels between the axes (aten/src/ATen/native/cpu/
    UpSampleKernel.cpp, `compute_index_ranges_int16_weights`).

    Args:
        square: The evaluation transform.

    Shapes: uint8 `N 3 H W` -> uint8 `N 3 S S`.
    """

    color: Tensor

    def __init__(self, square: ResizeCrop | ResizePad) -> None:
        super().__init__()
        self.square = square
        self.register_buffer("color", torch.tensor(MEAN_COLOR, dtype=torch.float32).reshape(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Resize and crop, or pad."""
        sides = [torch.scalar_tensor(side, dtype=torch.int64) for side in x.shape[2:]]
        pixels = [torch.arange(side) for side in x.shape[2:]]
        if isinstance(self.square, ResizeCrop):
            rows, columns = _cropped(self.square, sides, pixels)
        else:
            rows, columns = _padded(self.square, sides, pixels)
        y = _rounded(rows @ _rounded(x.to(torch.float32) @ columns.T))
        inside = rows.sum(dim=1, keepdim=True) * columns.sum(dim=1) > 0
        return torch.where(inside, y, self.color).to(torch.uint8)


def _cropped(square: ResizeCrop, sides: Sequence[Tensor], pixels: Sequence[Tensor]) -> list[Tensor]:
    """Return the weights of rows and of columns; see `ResizeCrop`, and `_weights`.

    Args:
        square: The transform.
        sides: Height and width of the image.
        pixels: Places of its rows and of its columns.
    """
    size, least = square.image_size, round(square.image_size / square.crop_fraction)
    shorter = torch.minimum(*sides)
    most, matrices = THIN * shorter, []
    for side, along in zip(sides, pixels, strict=True):
        kept = torch.minimum(side, most + (side - most) % 2)
        resized = least * kept // shorter
        half, odd = (resized - size) // 2, (resized - size) % 2
        first = half + odd * (half % 2)  # half of what is cut off, rounded to even as Python does
        matrices.append(_weights(along - (side - kept) // 2, kept, resized, torch.arange(size) + first))
    return matrices


def _padded(square: ResizePad, sides: Sequence[Tensor], pixels: Sequence[Tensor]) -> list[Tensor]:
    """Return the weights of rows and of columns; see `ResizePad`, and `_cropped`."""
    size, matrices = square.image_size, []
    scale = size / torch.maximum(*sides).to(torch.float64)
    for side, along in zip(sides, pixels, strict=True):
        resized = (side.to(torch.float64) * scale).round().to(torch.int64).clamp(min=1)
        matrices.append(_weights(along, side, resized, torch.arange(size) - (size - resized) // 2))
    return matrices


def _weights(pixels: Tensor, kept: Tensor, resized: Tensor, wanted: Tensor) -> Tensor:
    """Return the weights with which the pixels of an axis make those of the resized one: `S L`, float32.

    Distances are counted in halves of 1 / `resized` of a pixel, so that they are integers.

    Args:
        pixels: Places of the axis' pixels `L`; those from 0 to `kept` count.
        kept: Number of pixels that count.
        resized: Number of pixels that these become.
        wanted: Places of the wanted pixels `S` among them; one that is not there gets no weight.
    """
    there = (wanted >= 0) & (wanted < resized)
    # The first one too, whose triangle is cut off at the edge: of all of them the largest weight decides
    rows = torch.cat([torch.where(there, wanted, 0), torch.zeros_like(wanted[:1])])[:, None]
    distance = (resized * (2 * pixels + 1) - kept * (2 * rows + 1)).abs()
    weights = (2 * torch.maximum(kept, resized) - distance).clamp(min=0) * ((pixels >= 0) & (pixels < kept))
    total = weights.sum(dim=1, keepdim=True)
    denominators = torch.tensor([2**bits for bits in BITS])
    largest = _divided(weights.amax(dim=1, keepdim=True) * denominators, total).amax(dim=0)
    denominator = torch.where(largest < LARGEST_WEIGHT, denominators, 1).amax(dim=0)
    integers = _divided(weights * denominator, total)[:-1] * there[:, None]
    return integers.to(torch.float32) / denominator


def _divided(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole of integers, rounded."""
    return (2 * part + whole) // (2 * whole)


def _rounded(x: Tensor) -> Tensor:
    return (x + 0.5).floor()
