"""Batches whose images are drawn on the CPU and made on the device that the network computes on."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from tlab.data.device_canvas import Drawing
from tlab.data.device_decode import decode_jpegs
from tlab.data.mixing import Mix

PIECE = 64  # images that are made at once: a batch of any size takes no more memory on the way


class DrawnBatch(NamedTuple):
    """N drawings, and how B images come of them. The tensors go to the device, what is no tensor stays here.

    Attributes:
        pixels: those of all drawings one after the other, uint8; nothing for those that are JPEG files.
        jpegs: the content of each of these files, uint8.
        cuts: N, `Drawing.cut`; those that are there belong to `jpegs` in order.
        sides: N 4: height and width of each, and of what it is resized to.
        matrix: N 2 3, float32, `Drawing.matrix`.
        fill: N 3, float32.
        edge: N 2, float32: last column and row of the resized image where border pixels are continued; else -1.
        tint: N 3 7, float32; None where no colour changes.
        noise: of each `Drawing.noise`.
        boxes: N K 7, float32: top, left, bottom, right, R, G, B; nothing where bottom is 0.
        size: side S of the images.
        own: B, int64: the drawing of each image; None: drawing i is image i.
        partner: B, int64: the drawing that it is mixed with.
        share: B, float32: its share of the pixels, in mixup.
        pasted: B 4, float32: the box of the partner that is pasted (top, left, bottom, right), in CutMix.
        label: as in `Batch`.
        index: as in `Batch`.
    """

    pixels: Tensor
    jpegs: tuple[np.ndarray, ...]
    cuts: tuple[tuple[int, int, int, int] | None, ...]
    sides: np.ndarray
    matrix: Tensor
    fill: Tensor
    edge: Tensor
    tint: Tensor | None
    noise: tuple[tuple[float, float, int] | None, ...]
    boxes: Tensor
    size: int
    own: Tensor | None
    partner: Tensor | None
    share: Tensor | None
    pasted: Tensor | None
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which no batch needs


def pack(drawings: Sequence[Drawing], size: int, label: Tensor, index: Tensor) -> DrawnBatch:
    """Return a batch of which drawing i is image i.

    Args:
        drawings: N.
        size: side S of the images, in pixels.
        label: as in `Batch`.
        index: as in `Batch`.
    """
    count = max(len(drawing.boxes) for drawing in drawings)
    boxes = np.zeros((len(drawings), count, 7), np.float32)
    for row, drawing in zip(boxes, drawings, strict=True):
        for number, (*edges, color) in enumerate(drawing.boxes):
            row[number] = *edges, *color
    tints = [np.eye(3, 7) if drawing.tint is None else drawing.tint for drawing in drawings]
    inside = [(-1, -1) if d.fill is not None else (d.reduced[1] - 1, d.reduced[0] - 1) for d in drawings]
    return DrawnBatch(
        pixels=_joined([drawing.pixels for drawing in drawings if drawing.cut is None]),
        jpegs=tuple(drawing.pixels for drawing in drawings if drawing.cut is not None),
        cuts=tuple(drawing.cut for drawing in drawings),
        sides=np.array([(*(d.cut[2:] if d.cut else d.pixels.shape[:2]), *d.reduced) for d in drawings]),
        matrix=_floats([drawing.matrix for drawing in drawings]),
        fill=_floats([drawing.fill or (0, 0, 0) for drawing in drawings]),
        edge=_floats(inside),
        tint=_floats(tints) if any(drawing.tint is not None for drawing in drawings) else None,
        noise=tuple(drawing.noise for drawing in drawings),
        boxes=torch.from_numpy(boxes),
        size=size,
        own=None,
        partner=None,
        share=None,
        pasted=None,
        label=label,
        index=index,
    )


def mixed(drawn: DrawnBatch, pairs: Sequence[tuple[int, int]], mixes: Sequence[Mix]) -> DrawnBatch:
    """Return a batch whose image i is drawing `pairs[i][0]`, mixed with drawing `pairs[i][1]`."""
    own, partner = torch.tensor(pairs).T
    share = torch.tensor([mix.share for mix in mixes], dtype=torch.float32)
    pasted = torch.tensor([mix.box for mix in mixes], dtype=torch.float32)
    return drawn._replace(own=own, partner=partner, share=share, pasted=pasted)


@torch.no_grad()
def images(drawn: DrawnBatch) -> Tensor:
    """Make the images, where the batch's tensors are: B 3 S S, uint8.

    Without noise they differ from those that `Canvas` makes of the same drawings by less than 1 grey level in the
    mean (the rounding between one step and the next, and OpenCV's warp, which knows 32 places between two pixels).
    """
    made = torch.empty(len(drawn.sides), 3, drawn.size, drawn.size, dtype=torch.uint8, device=drawn.pixels.device)
    sources = _sources(drawn)
    for start in range(0, len(made), PIECE):
        rows = slice(start, start + PIECE)
        made[rows] = _made(_part(drawn, rows), islice(sources, PIECE))
    return made if drawn.own is None else _mixed(made, drawn)


def _part(drawn: DrawnBatch, rows: slice) -> DrawnBatch:
    """Return some of the drawings, without their sources."""
    tint = drawn.tint[rows] if drawn.tint is not None else None
    edge, sides, noise = drawn.edge[rows], drawn.sides[rows], drawn.noise[rows]
    matrix, fill, boxes = drawn.matrix[rows], drawn.fill[rows], drawn.boxes[rows]
    return drawn._replace(sides=sides, matrix=matrix, fill=fill, edge=edge, tint=tint, noise=noise, boxes=boxes)


def _made(drawn: DrawnBatch, sources: Iterable[Tensor]) -> Tensor:
    """Make the drawings of these sources: N 3 S S, uint8."""
    x = _warped(drawn, sources)
    if drawn.tint is not None:
        x = _tinted(x, drawn.tint)
    for number, noise in enumerate(drawn.noise):
        if noise is not None:
            x[number] += _noise(x[number], *noise)
    for top, left, bottom, right, *color in drawn.boxes.permute(1, 2, 0):
        inside = _inside(drawn.size, top, left, bottom, right)
        x = torch.where(inside, torch.stack(color, dim=1)[:, :, None, None], x)
    return x.clamp_(0, 255).round_().to(torch.uint8)


def _warped(drawn: DrawnBatch, sources: Iterable[Tensor]) -> Tensor:
    """Return the drawings after resizing and warp: N 3 S S, float32, in 0..255."""
    device, size = drawn.pixels.device, drawn.size
    height, width = (int(side) for side in drawn.sides[:, 2:].max(axis=0))
    # Less their colour outside, so that what is outside is 0, as `grid_sample` has it
    resized = torch.zeros(len(drawn.sides), 3, height, width, device=device)
    for number, (x, (h, w, to_h, to_w)) in enumerate(zip(sources, drawn.sides.tolist(), strict=True)):
        x = x[None].float()
        if (h, w) != (to_h, to_w):
            x = interpolate(x, size=(to_h, to_w), mode="bilinear", antialias=True)
        torch.sub(x[0], drawn.fill[number, :, None, None], out=resized[number, :, :to_h, :to_w])
    # No matrix product: on a GPU it may round to TF32, which moves pixels
    place = torch.arange(size, device=device, dtype=torch.float32)
    by_x, by_y, start_at = drawn.matrix[:, :, :, None, None].unbind(2)
    x, y = (by_x * place + by_y * place[:, None] + start_at).unbind(1)
    last_x, last_y = drawn.edge[:, :, None, None].unbind(1)
    x = torch.where(last_x >= 0, torch.minimum(x.clamp(min=0), last_x), x)
    y = torch.where(last_y >= 0, torch.minimum(y.clamp(min=0), last_y), y)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return grid_sample(resized, grid, align_corners=False) + drawn.fill[:, :, None, None]


def _sources(drawn: DrawnBatch) -> Iterator[Tensor]:
    """Yield the sources of the drawings: 3 H W, uint8."""
    pieces = (drawn.jpegs[start : start + PIECE] for start in range(0, len(drawn.jpegs), PIECE))
    decoded = (x for piece in pieces for x in decode_jpegs(piece, drawn.pixels.device))
    start = 0
    for (h, w, *_), cut in zip(drawn.sides.tolist(), drawn.cuts, strict=True):
        if cut is not None:
            top, left = cut[:2]
            yield next(decoded)[:, top : top + h, left : left + w]
        else:
            yield drawn.pixels[start : start + 3 * h * w].view(h, w, 3).permute(2, 0, 1)
            start += 3 * h * w


def _tinted(x: Tensor, tint: Tensor) -> Tensor:
    """Change colours: x is N 3 S S, tint N 3 7 (see `Drawing`)."""
    of_mean = (tint[:, :, 4:] * x.mean((2, 3))[:, None]).sum(2)
    changed = (tint[:, :, 3] + of_mean)[:, :, None, None].expand_as(x).contiguous()
    for channel in range(3):
        changed += tint[:, :, channel, None, None] * x[:, channel, None]
    return changed.clamp_(0, 255)


def _noise(x: Tensor, mean: float, sigma: float, seed: int) -> Tensor:
    """Return noise in grey levels, of x's shape; a function of the seed and of the kind of device."""
    return torch.empty_like(x).normal_(mean, sigma, generator=torch.Generator(x.device).manual_seed(seed))


def _mixed(x: Tensor, drawn: DrawnBatch) -> Tensor:
    """Mix the drawings x, N 3 S S, uint8, to images, as `Mixing.mix` does."""
    assert drawn.own is not None
    assert drawn.partner is not None
    assert drawn.share is not None
    assert drawn.pasted is not None
    own, partner = x[drawn.own], x[drawn.partner]
    blended = torch.lerp(partner.float(), own.float(), drawn.share[:, None, None, None]).round_().to(torch.uint8)
    return torch.where(_inside(drawn.size, *drawn.pasted.unbind(1)), partner, blended)


def _inside(size: int, top: Tensor, left: Tensor, bottom: Tensor, right: Tensor) -> Tensor:
    """Return which pixels lie in the box of each image: N 1 S S, bool."""
    place = torch.arange(size, device=top.device)
    rows = (place >= top[:, None]) & (place < bottom[:, None])
    columns = (place >= left[:, None]) & (place < right[:, None])
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _joined(images_HWC: Sequence[np.ndarray]) -> Tensor:
    joined = np.empty(sum(x.size for x in images_HWC), np.uint8)
    start = 0
    for x in images_HWC:
        joined[start : start + x.size].reshape(x.shape)[:] = x
        start += x.size
    return torch.from_numpy(joined)


def _floats(values: Sequence) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32))
