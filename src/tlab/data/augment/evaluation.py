"""Transforms of evaluation: uint8 RGB images C H W to squares."""

from dataclasses import dataclass

from torch import Tensor
from torchvision.transforms.v2 import functional as TF

# ImageNet's mean color, 255 * (0.485, 0.456, 0.406), which normalization maps to zero.
MEAN_COLOR = (124, 116, 104)
# Up to this ratio of the sides an image is resized whole, exactly as in torchvision's presets.
THIN = 2
# Share of the shorter side that is kept, for callers in Python; a run's default is in conf/data/_common.yaml.
CROP_FRACTION = 0.875
# Oversampling of decoded images per side: resizing then hides the decoder's scaling, and crops keep detail.
DETAIL = 2


@dataclass
class ResizeCrop:
    """Resize the shorter side to `round(image_size / crop_fraction)`, then cut the central square.

    With `crop_fraction=0.875` this is torchvision's classification preset (256 then 224), pixel by pixel, for
    every image whose longer side is at most twice the shorter one. Of thinner images only the middle is
    resized, so that an image of 1 x 4000 pixels does not become one of 256 x 1,024,000 on the way.

    Args:
        image_size: Side S of the square output, in pixels.
        crop_fraction: Share of the shorter side that is kept, 0 < crop_fraction <= 1.

    Shapes: uint8 `C H W` -> uint8 `C S S`.
    """

    image_size: int
    crop_fraction: float = CROP_FRACTION

    def __post_init__(self) -> None:
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction must be above 0 and at most 1, not {self.crop_fraction}")

    @property
    def least_side(self) -> int:
        """Pixels of the shorter side that a decoder should leave (see `decode.decode`)."""
        return DETAIL * round(self.image_size / self.crop_fraction)

    def __call__(self, x_CHW: Tensor) -> Tensor:
        """Resize and crop one image."""
        height, width = x_CHW.shape[-2:]
        kept = THIN * min(height, width)
        if max(height, width) > kept:  # of equal parity, to keep the center
            x_CHW = TF.center_crop(x_CHW, [min(side, kept + (side - kept) % 2) for side in (height, width)])
        x_CHW = TF.resize(x_CHW, [round(self.image_size / self.crop_fraction)], antialias=True)
        return TF.center_crop(x_CHW, [self.image_size, self.image_size])


@dataclass
class ResizePad:
    """Resize the longer side to `image_size`, then pad to a square (`MEAN_COLOR`): the whole object stays in view.

    Args:
        image_size: Side S of the square output, in pixels.

    Shapes: uint8 `3 H W` -> uint8 `3 S S`.
    """

    image_size: int

    @property
    def least_side(self) -> int:
        """Pixels of the shorter side that a decoder should leave (see `decode.decode`)."""
        return DETAIL * self.image_size

    def __call__(self, x_CHW: Tensor) -> Tensor:
        """Resize and pad one image."""
        size, (height, width) = self.image_size, x_CHW.shape[-2:]
        scale = size / max(height, width)
        # max(1, ...): the short side of a very thin image must not vanish
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        x_CHW = TF.resize(x_CHW, [height, width], antialias=True)
        left, top = (size - width) // 2, (size - height) // 2
        return TF.pad(x_CHW, [left, top, size - width - left, size - height - top], fill=list(MEAN_COLOR))


def evaluation_transform(
    image_size: int, resize: str = "crop", crop_fraction: float = CROP_FRACTION
) -> ResizeCrop | ResizePad:
    """Build the deterministic transform of validation and test images.

    Args:
        image_size: Side S of the square output, in pixels.
        resize: `crop` keeps the central square, `pad` keeps the whole image and pads it with the mean color.
        crop_fraction: Share of the shorter side that `crop` keeps; 0.875 (224 of 256) in torchvision's presets.

    Returns:
        A callable from uint8 `3 H W` to uint8 `3 S S`.

    Raises:
        ValueError: `resize` is neither of the two, or a number is out of range.
    """
    if image_size < 2:
        raise ValueError(f"image_size must be at least 2 pixels, not {image_size}")
    if resize == "crop":
        return ResizeCrop(image_size, crop_fraction)
    if resize == "pad":
        return ResizePad(image_size)
    raise ValueError(f"resize must be 'crop' or 'pad', not {resize!r}")
