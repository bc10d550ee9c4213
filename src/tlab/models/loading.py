"""Put weights into a model: every key must find its place; only the classifier, which tlab replaces, is free."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from tlab.errors import UserError
from tlab.models.weights import Weights, with_metadata

# torchvision renamed these layers of DenseNet; its own files have the old names (torchvision.models.densenet).
OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)$")
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # side classifiers of GoogLeNet and Inception, off in tlab


def fit_to(weights: Weights, model: nn.Module, name: str, classifier: str, needed: set[str]) -> None:
    """Copy `weights` into `model` in place, and take out the classifier's rows.

    Args:
        weights: as read; afterwards `classifier` holds the rows of the source classifier, where there are any.
        model: the original torchvision or timm model.
        name: its name, for messages.
        classifier: path of its classifier ("" where it has none).
        needed: keys of the stages in use; keys of other layers may be missing.

    Raises:
        UserError: a key of `needed` is missing, a key of the file has no place, or a shape differs.
    """
    tensors = weights.tensors
    own = model.state_dict()
    for key in [key for key in tensors if OLD_DENSENET.match(key)]:
        tensors[OLD_DENSENET.sub(r"\1\2", key)] = tensors.pop(key)
    for key in [key for key in tensors if key.startswith(AUXILIARY) and key not in own]:
        del tensors[key]
    for part in ("weight", "bias"):
        if classifier and (row := tensors.pop(f"{classifier}.{part}", None)) is not None:
            weights.classifier[part] = row.flatten(1) if row.ndim > 1 else row
    _resize_positions(tensors, model, own)
    absent = sorted(key for key in needed - tensors.keys() if not key.endswith("num_batches_tracked"))
    unused = sorted(tensors.keys() - own.keys())
    wrong = sorted(k for k in tensors.keys() & own.keys() if tensors[k].shape != own[k].shape)
    if absent or unused or wrong:
        shapes = [f"{key} {tuple(tensors[key].shape)} instead of {tuple(own[key].shape)}" for key in wrong]
        problems = [_list("missing", absent), _list("without a place", unused), _list("of another shape", shapes)]
        raise UserError(
            f"backbone.weights ({weights.description}) does not fit {name}: "
            f"{'; '.join(p for p in problems if p)}; choose the backbone that these weights belong to"
        )
    if not hasattr(tensors, "_metadata"):
        tensors = with_metadata(tensors, {"": {"version": getattr(model, "_version", None)}})
    model.load_state_dict(tensors, strict=False)


def _list(what: str, keys: Sequence[str]) -> str:
    if not keys:
        return ""
    more = f", and {len(keys) - 6} more" if len(keys) > 6 else ""
    return f"{len(keys)} {what} ({', '.join(keys[:6])}{more})"


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
