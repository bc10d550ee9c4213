"""How a photograph becomes the input of an exported model; the model card shows this function."""

import numpy as np
from PIL import Image, ImageOps


def read(file: str, black: float = 0, white: float = 65535) -> np.ndarray:
    """Return a photograph upright, transparency on white: uint8 1 x 3 x H x W, RGB.

    Of gray samples of more than 8 bits `black` becomes 0, and `white` 255.
    """
    image = ImageOps.exif_transpose(Image.open(file))
    if image.mode.startswith("I"):
        samples = (np.asarray(image, np.float64) - black) * (256 / (white - black + 1))
        image = Image.fromarray(samples.clip(0, 255).astype(np.uint8))
    image = image.convert("RGBA")
    alpha = np.asarray(image)[..., 3]
    if alpha.max() > max(alpha.min(), 1):  # else it says nothing
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB")).transpose(2, 0, 1)[None]
