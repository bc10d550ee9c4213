"""Pretrained weights as they are read: torchvision's, the bundled file, or a file of any origin."""

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from tlab.core.errors import DownloadFailed, UserError
from tlab.core.nested import leaves
from tlab.models.packaged_weights import MODEL as PACKAGED_MODEL
from tlab.models.packaged_weights import packaged_tensors
from tlab.models.stages import IMAGENET_MEAN, IMAGENET_STD, Pretraining
from tlab.models.weight_files import StandIn, read_content, weights_file, whole_model

BUNDLED_MODEL = "mobilenet_v3_small"
BUNDLED_FILE = "mobilenet_v3_small_tinyimagenet64.pth"  # trained at 64, then 96 px; 33.5 % on Tiny-ImageNet at 96
BUNDLED_CLASSES = "tinyimagenet200_classes.json"
BUNDLED_SIZE = 96  # pixels
MOST_DENSE = 2**28  # numbers in the largest sparse tensor that may be a layer's; a file of bytes can say any size
STAGE_KEY = re.compile(r"^(?:net\.)?backbone\.stages\.[^.]+\.(.+)$")  # key of a tlab checkpoint
HEAD_KEY = re.compile(r"^(?:net\.)?head\.(.+)$")
OFFLINE = (
    "offline: backbone.weights=FILE, backbone=efficientnet_lite0 backbone.weights=packaged, "
    "backbone=mobilenet_v3_small backbone.weights=bundled, or backbone.weights=null"
)


@dataclass
class Weights:
    """Weights as read, before they meet a model.

    Attributes:
        tensors: Tensors by dotted key, which ends in one of the original model; of a file, all that it holds.
        pretraining: What they were trained with, as far as they tell.
        classifier: Weight `K D` and bias `K` of the source classifier, where it is kept apart.
        prefix_tokens: Number of tokens that a tlab head left out of its pooling.
    """

    tensors: dict[str, Tensor]
    pretraining: Pretraining
    classifier: dict[str, Tensor] = field(default_factory=dict)
    prefix_tokens: int = 0


def read_weights(weights: str, name: str, names: Sequence[str]) -> Weights:
    """Read `bundled`, `packaged`, one of torchvision's named weights, or a file.

    Args:
        weights: The value of `backbone.weights`.
        name: The model's name.
        names: Names of torchvision's weights for this model (none for a timm model).

    Raises:
        UserError: The name is unknown, the download failed, or the file is missing, damaged or not plain data.
    """
    member = weights.rpartition(".")[2]
    if weights == "bundled":
        return _bundled(name)
    if weights == "packaged":
        return _packaged(name)
    if member in names and not Path(weights).is_file():
        return _torchvision(name, member)
    path = Path(weights).expanduser()
    if not path.exists() and not path.suffix and len(path.parts) == 1:
        own = {BUNDLED_MODEL: ["bundled"], PACKAGED_MODEL: ["packaged"]}.get(name.partition(".")[0], [])
        known = ", ".join([*names, *own, "null"])
        raise UserError(f"backbone.weights={weights} is unknown for {name}, choose {known} or a file")
    return read_file(path)


def _bundled(name: str) -> Weights:
    if name != BUNDLED_MODEL:
        raise UserError(
            f"backbone.weights=bundled is for backbone={BUNDLED_MODEL} only, "
            f"for {name} give a file, DEFAULT or null"
        )
    folder = resources.files("tlab") / "weights"
    with resources.as_file(folder / BUNDLED_FILE) as path:
        tensors = torch.load(path, weights_only=True, map_location="cpu")
    classes = class_names(json.loads((folder / BUNDLED_CLASSES).read_text(encoding="utf-8")))
    description = "bundled (Tiny-ImageNet, 200 classes)"
    return Weights(tensors, Pretraining(BUNDLED_SIZE, classes=classes, description=description))


def _packaged(name: str) -> Weights:
    from timm.data import ImageNetInfo

    tensors, classes = packaged_tensors(name), tuple(ImageNetInfo().label_descriptions())
    half = (0.5, 0.5, 0.5)  # mean and standard deviation
    return Weights(tensors, Pretraining(224, half, half, classes, description="packaged (ImageNet, 1000 classes)"))


def _torchvision(name: str, member: str) -> Weights:
    """Fetch named weights by torchvision's own API: download with progress bar and hash check, TORCH_HOME cache."""
    entry, place = _entry_and_place(name, member)
    try:
        tensors = entry.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        if place.is_file():
            raise UserError(f"the weights file {place} is damaged, delete it to download it again") from error
        raise DownloadFailed(
            f"backbone.weights={member} needs the file {entry.url}, looked for at {place}, and the download failed "
            f"({error})",
            f"put the file there, or work {OFFLINE}",
        ) from error
    preset: Any = entry.transforms()
    mean, std, classes = (tuple(each) for each in (preset.mean, preset.std, entry.meta["categories"]))
    known = Pretraining(preset.crop_size[0], mean, std, classes, description=f"torchvision {entry}")
    return Weights(tensors, known)


def fetch_from_torchvision(name: str, member: str) -> None:
    """Download named weights, unless their file is there.

    Raises:
        DownloadFailed: They cannot be fetched.
    """
    if not _entry_and_place(name, member)[1].is_file():
        _torchvision(name, member)


def _entry_and_place(name: str, member: str) -> tuple[Any, Path]:
    """Return torchvision's entry of named weights, and where it keeps their file."""
    entry = torchvision.models.get_model_weights(name)[member]
    return entry, Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rpartition("/")[2]


def read_file(path: Path) -> Weights:
    """Read a state dict, a checkpoint of any training script that holds one, or a run of tlab.

    Raises:
        UserError: The file is missing, damaged, holds no tensors, or more than data.
    """
    file = weights_file(path)
    content = read_content(file)
    known = Pretraining(0, description=f"file {file.name}" if file == path else f"run {path.name}")
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if isinstance(state, Mapping) and any(STAGE_KEY.match(str(key)) for key in state):
        try:
            return _of_tlab(Weights(_tensors(state), known), content)
        except (AttributeError, TypeError, ValueError, KeyError) as error:
            raise UserError(f"backbone.weights={path} is none that tlab.train wrote; give another file") from error
    try:
        tensors = _tensors(content)
        objects = not tensors and any(isinstance(leaf, StandIn) for _, leaf in leaves(content))
    except RecursionError:  # a mapping that holds itself
        tensors, objects = {}, False
    if objects:
        raise whole_model(file)
    if not tensors:
        raise UserError(
            f"backbone.weights={path} holds no state dict (layer names with tensors), give another file"
        )
    return Weights(tensors, known)


def _tensors(content: Any) -> dict[str, Tensor]:
    """Return the tensors, and the arrays of numbers as such, of nested mappings by their dotted keys."""
    return {
        ".".join(place): leaf
        for place, each in leaves(content)
        for leaf in [_as_tensor(each)]
        if isinstance(leaf, Tensor) and place and leaf.device.type == "cpu"
    }


def _as_tensor(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.layout != torch.strided:  # a pruned layer
        return leaf.to_dense() if leaf.numel() <= MOST_DENSE else None
    if not isinstance(leaf, np.ndarray) or leaf.dtype.kind not in "biuf":
        return leaf
    return torch.from_numpy(leaf.astype(leaf.dtype.newbyteorder("=")))  # a copy, which can be written


def _of_tlab(weights: Weights, content: Mapping[str, Any]) -> Weights:
    """Take the backbone, and the head in parts, out of a tlab checkpoint."""
    head = {m[1]: value for key, value in weights.tensors.items() if (m := HEAD_KEY.match(key))}
    linear = {key for key in head if key.startswith("linear.")}
    weights.classifier = {key.removeprefix("linear."): head[key] for key in linear}
    weights.tensors = {m[1]: value for key, value in weights.tensors.items() if (m := STAGE_KEY.match(key))}
    found = content.get("tlab")
    about: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    weights.prefix_tokens = about.get("prefix_tokens") or 0
    weights.pretraining = replace(
        weights.pretraining,
        input_size=about.get("image_size") or 0,
        mean=tuple(about.get("mean") or IMAGENET_MEAN),
        std=tuple(about.get("std") or IMAGENET_STD),
        classes=class_names(about["classes"]) if about.get("classes") else None,
        pooling=about.get("config", {}).get("head", {}).get("pooling", "avg"),  # the default of `Head`
        head_layers={key: head[key] for key in head.keys() - linear},
    )
    return weights


def read_classes(path: str) -> tuple[str, ...]:
    """Read class names from a JSON list of names, or of objects with a "name".

    Raises:
        UserError: The file is missing or holds something else.
    """
    try:
        return class_names(json.loads(Path(path).expanduser().read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"backbone.weights_classes={path} must be a JSON list of class names ({error})") from error


def class_names(entries: Sequence[Any]) -> tuple[str, ...]:
    """Return the names in a list of names or of `{"wnid": ..., "name": ...}`."""
    return tuple(str(entry["name"]) if isinstance(entry, Mapping) else str(entry) for entry in entries)
