"""Read pretrained weights (torchvision's, the bundled file, or a file of any origin) and load them into a model.

Files are read with `weights_only=True`, so they can hold plain data only.
"""

import json
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from tlab.core.errors import UserError
from tlab.models.stages import IMAGENET_MEAN, IMAGENET_STD, Pretraining

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # side classifiers of GoogLeNet and Inception, off in tlab
BUNDLED_MODEL = "mobilenet_v3_small"
BUNDLED_FILE = "mobilenet_v3_small_tinyimagenet64.pth"  # trained at 64, then 96 px; 33.5 % on Tiny-ImageNet at 96
BUNDLED_CLASSES = "tinyimagenet200_classes.json"
BUNDLED_SIZE = 96  # pixels
# Where checkpoints of common training scripts keep the model, first match wins.
NESTED = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
STAGE_KEY = re.compile(r"^(?:net\.)?backbone\.stages\.[^.]+\.(.+)$")  # key of a tlab checkpoint
HEAD_KEY = re.compile(r"^(?:net\.)?head\.(.+)$")
OFFLINE = (
    "offline: backbone.weights=FILE, backbone=mobilenet_v3_small backbone.weights=bundled, or backbone.weights=null"
)


@dataclass
class Weights:
    """Weights as read, before they meet a model.

    Attributes:
        tensors: State dict with the original model's keys.
        pretraining: What they were trained with, as far as they tell.
        classifier: Weight `K D` and bias `K` of the source classifier, where it is kept apart.
        pooling: Pooling of the tlab head that the rows belong to; None: the original model's classifier has them.
        prefix_tokens: Number of tokens that this head left out of its pooling.
    """

    tensors: dict[str, Tensor]
    pretraining: Pretraining
    classifier: dict[str, Tensor] = field(default_factory=dict)
    pooling: str | None = None
    prefix_tokens: int = 0


def read_weights(weights: str, name: str, names: Sequence[str]) -> Weights:
    """Read `bundled`, one of torchvision's named weights, or a file.

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
    if member in names and not Path(weights).is_file():
        return _torchvision(name, member)
    path = Path(weights).expanduser()
    if not path.is_file() and not path.suffix and len(path.parts) == 1:
        raise UserError(
            f"backbone.weights={weights} is unknown for {name}, "
            f"choose {', '.join([*names, 'bundled', 'null'])} or a file"
        )
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


def _torchvision(name: str, member: str) -> Weights:
    """Fetch named weights by torchvision's own API: download with progress bar and hash check, TORCH_HOME cache."""
    entry = torchvision.models.get_model_weights(name)[member]
    place = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rpartition("/")[2]
    try:
        tensors = entry.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        if place.is_file():
            raise UserError(f"the weights file {place} is damaged, delete it to download it again") from error
        raise UserError(
            f"backbone.weights={member} needs the file {entry.url}, looked for at {place}, and the download failed "
            f"({error}); put the file there, or work {OFFLINE}"
        ) from error
    preset: Any = entry.transforms()
    mean, std, classes = (tuple(each) for each in (preset.mean, preset.std, entry.meta["categories"]))
    known = Pretraining(preset.crop_size[0], mean, std, classes, description=f"torchvision {entry}")
    return Weights(tensors, known)


def read_file(path: Path) -> Weights:
    """Read a state dict, a checkpoint of torchvision, timm or Lightning, or one of tlab.

    Raises:
        UserError: The file is missing, damaged, or holds more than plain data.
    """
    if not path.is_file():
        raise UserError(f"backbone.weights={path} is not there, give the path of an existing weights file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen types on foreign bytes
        if isinstance(error, pickle.UnpicklingError) and (
            zipfile.is_zipfile(path) or "Unsupported global" in str(error)
        ):
            raise UserError(
                f"backbone.weights={path} holds Python objects besides tensors, which tlab does not run; "
                "save its state dict alone: torch.save(model.state_dict(), FILE)"
            ) from error
        raise UserError(
            f"backbone.weights={path} is no weights file of torch, or is cut short; fetch it again"
        ) from error
    nested = next(
        (key for key in NESTED if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)), None
    )
    found = content[nested] if nested else content
    if not isinstance(found, Mapping) or not any(isinstance(value, Tensor) for value in found.values()):
        raise UserError(
            f"backbone.weights={path} holds no state dict (layer names with tensors), give another file"
        )
    tensors = {
        str(k).replace("_orig_mod.", ""): v for k, v in found.items() if isinstance(v, Tensor) and k != "n_averaged"
    }
    description = f"file {path.name}" + (f", {nested}" if nested else "")
    weights = Weights(tensors, Pretraining(0, description=description))
    if any(STAGE_KEY.match(key) for key in tensors):
        return _of_tlab(weights, content)
    for prefix in ("module.", "model."):
        if all(key.startswith(prefix) for key in weights.tensors):
            weights.tensors = {key.removeprefix(prefix): value for key, value in weights.tensors.items()}
    return weights


def _of_tlab(weights: Weights, content: Mapping[str, Any]) -> Weights:
    """Take the backbone, and the rows of a linear head, out of a tlab checkpoint."""
    head = {m[1]: value for key, value in weights.tensors.items() if (m := HEAD_KEY.match(key))}
    if not any(key.startswith(("hidden.", "norm.")) for key in head):
        weights.classifier = {key.removeprefix("linear."): value for key, value in head.items()}
    weights.tensors = {m[1]: value for key, value in weights.tensors.items() if (m := STAGE_KEY.match(key))}
    weights.pooling = "avg"  # the default of `Head`
    if isinstance(about := content.get("tlab"), Mapping):
        weights.pooling = about.get("config", {}).get("head", {}).get("pooling", weights.pooling)
        weights.prefix_tokens = about.get("prefix_tokens") or 0
        weights.pretraining = replace(
            weights.pretraining,
            input_size=about.get("image_size") or 0,
            mean=tuple(about.get("mean") or IMAGENET_MEAN),
            std=tuple(about.get("std") or IMAGENET_STD),
            classes=class_names(about["classes"]) if about.get("classes") else None,
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


# torchvision renamed these layers of DenseNet and ViT; its files have the old names, which its own loading renames
# (torchvision.models.densenet, torchvision.models.vision_transformer.MLPBlock).
OLD_NAMES = (
    (re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)$"), r"\1\2"),
    (re.compile(r"^(encoder\.layers\..+\.mlp)\.linear_1\.(.+)$"), r"\1.0.\2"),
    (re.compile(r"^(encoder\.layers\..+\.mlp)\.linear_2\.(.+)$"), r"\1.3.\2"),
)


def fit_to(weights: Weights, model: nn.Module, name: str, classifier: str, needed: set[str]) -> None:
    """Copy `weights` into `model` in place, and take out the classifier's rows.

    Args:
        weights: Weights as read; afterwards `classifier` holds the rows of the source classifier, if there are any.
        model: The original torchvision or timm model.
        name: Name of the model, for messages.
        classifier: Path of its classifier ("" where it has none).
        needed: Keys of the stages in use; keys of other layers may be missing.

    Raises:
        UserError: A key of `needed` is missing, a key of the file has no place, or a shape differs.
    """
    own = model.state_dict()
    tensors = weights.tensors = {
        _present_name(key): tensor
        for key, tensor in weights.tensors.items()
        if key in own or not key.startswith(AUXILIARY)
    }
    for part in ("weight", "bias"):
        if classifier and (row := tensors.pop(f"{classifier}.{part}", None)) is not None:
            weights.classifier[part] = row.flatten(1) if row.ndim > 1 else row
    _resize_positions(tensors, model, own)
    problems = {
        "missing": [key for key in needed - tensors.keys() if not key.endswith("num_batches_tracked")],
        "without a place": list(tensors.keys() - own.keys()),
        "of another shape": [
            f"{key} {tuple(tensors[key].shape)} instead of {tuple(own[key].shape)}"
            for key in tensors.keys() & own.keys()
            if tensors[key].shape != own[key].shape
        ],
    }
    if told := [f"{len(keys)} {what} ({_listed(keys)})" for what, keys in problems.items() if keys]:
        raise UserError(
            f"backbone.weights ({weights.pretraining.description}) does not fit {name}: "
            f"{'; '.join(told)}; choose the backbone that these weights belong to"
        )
    own.update(tensors)  # it says the versions of the layers, which MNASNet wants to know
    model.load_state_dict(own)


def _present_name(key: str) -> str:
    for old, present in OLD_NAMES:
        key = old.sub(present, key)
    return key


def _listed(keys: Sequence[str]) -> str:
    return ", ".join([*sorted(keys)[:6], *([f"and {len(keys) - 6} more"] if len(keys) > 6 else [])])


def _resize_positions(tensors: dict[str, Tensor], model: nn.Module, own: Mapping[str, Tensor]) -> None:
    """Interpolate a ViT's position embedding to the image size that the model was built for."""
    torchvision_key, timm_key = "encoder.pos_embedding", "pos_embed"
    for key in (torchvision_key, timm_key):
        if key not in own or key not in tensors or own[key].shape == tensors[key].shape:
            continue
        if key == torchvision_key and isinstance(model, torchvision.models.VisionTransformer):
            state = {key: tensors[key].float()}
            tensors[key] = interpolate_embeddings(model.image_size, model.patch_size, state)[key]
        elif own[key].ndim == tensors[key].ndim == 3 and own[key].shape[2] == tensors[key].shape[2]:
            from timm.layers import resample_abs_pos_embed

            grid: Any = getattr(model, "patch_embed", None)
            prefix = own[key].shape[1] - grid.num_patches
            tensors[key] = resample_abs_pos_embed(
                tensors[key].float(), list(grid.grid_size), num_prefix_tokens=prefix
            )
