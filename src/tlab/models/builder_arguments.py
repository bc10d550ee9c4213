"""Further arguments of a library's builder (`backbone.kwargs`): which may be given, and which a model takes."""

import dis
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from tlab.core.errors import UserError

# Arguments that tlab sets itself, or that would load, download, write or wrap something, with what to set instead.
# Loading an untrusted checkpoint relies on them, since its backbone.kwargs come with it.
WEIGHTS = (
    *("weights", "weights_backbone", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict"),
    *("pretrained_filter_fn", "pretrained_model_args", "checkpoint_path", "pruned"),
)
OWN = {
    **dict.fromkeys(WEIGHTS, "give backbone.weights"),
    **dict.fromkeys(("features_only", "feature_cfg", "feature_cls", "out_indices"), "give backbone.upto"),
    **dict.fromkeys(("image_size", "img_size", "input_size"), "give data.image_size"),
    **dict.fromkeys(("name", "model_name", "variant", "model_cls", "model_cfg", "cfg"), "give backbone.name"),
    **dict.fromkeys(("num_classes", "in_chans", "device", "dtype", "progress", "cache_dir"), "leave it out"),
    **dict.fromkeys(("scriptable", "exportable", "no_jit", "kwargs_filter"), "leave it out"),
    **dict.fromkeys(("aux_logits", "transform_input", "init_weights"), "leave it out"),
}


def checked(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return `backbone.kwargs`, validated and without nulls, which stand for the builder's defaults.

    Raises:
        UserError: An argument is reserved for tlab, or holds more than numbers, strings, lists and mappings.
    """
    for key, value in kwargs.items():
        if key in OWN or str(key).startswith("pretrained"):
            raise UserError(f"backbone.kwargs.{key} is not for you to set: {OWN.get(key, 'give backbone.weights')}")
        if not _is_plain(value):
            raise UserError(
                f"backbone.kwargs.{key} must be a number, a text, true, false, or a list or map of those"
            )
    return {key: value for key, value in kwargs.items() if value is not None}


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "_target_" not in value and all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if isinstance(value, list) else isinstance(value, str | float | int | None)


def build(builder: Callable[..., nn.Module], name: str, kwargs: Mapping[str, Any], **own: Any) -> nn.Module:
    """Return the model that `builder` makes with tlab's own arguments and `kwargs`.

    Raises:
        UserError: The model does not accept or ignores one of `kwargs`, or cannot be built with it.
        Exception: Whatever `builder` raises without `kwargs`, or because its weights are missing.
    """
    try:
        model = builder(**own, **kwargs)
    except Exception as error:
        fetching = own.get("pretrained") and isinstance(error, OSError | RuntimeError)
        if not kwargs or (fetching and "state_dict" not in str(error)):
            raise
        if (found := re.search(r"argument\S* \[?'(\w+)'", str(error))) and found[1] in kwargs:
            raise UserError(f"backbone.kwargs.{found[1]} is no argument that {name} takes, leave it out") from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"backbone.kwargs={dict(kwargs)} or the image size does not suit {name} ({reason}), give other values"
        ) from error
    for key in _ignored(model, kwargs):
        raise UserError(f"backbone.kwargs.{key} is no argument that {name} takes, leave it out")
    return model


def _ignored(model: nn.Module, kwargs: Mapping[str, Any]) -> list[str]:
    """Return the arguments that the model never reads: some classes accept any (torchvision's ConvNeXt)."""
    init: Any = type(model).__init__
    rest = inspect.getfullargspec(init).varkw
    if rest is None or any(code.opname.startswith("LOAD") and rest in code.argrepr for code in dis.Bytecode(init)):
        return []
    functions: list[Any] = [each for _, each in inspect.getmembers(inspect.getmodule(init), inspect.isfunction)]
    known = {argument for each in (init, *functions) for argument in inspect.signature(each).parameters}
    return [key for key in kwargs if key not in known]
