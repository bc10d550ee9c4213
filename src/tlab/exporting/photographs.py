"""How a photograph becomes the input of an exported model; the model card shows this function."""

import numpy as np
from PIL import Image, ImageOps


def read(file: str) -> np.ndarray:
    """Return a photograph upright, transparency on white: uint8 1 x 3 x H x W, RGB."""
    image = ImageOps.exif_transpose(Image.open(file)).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return np.array(image).transpose(2, 0, 1)[None]
