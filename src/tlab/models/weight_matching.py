"""Find a model's weights among the tensors of a file, whatever wraps them, and load them into it."""

import logging
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import takewhile
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from tlab.core.errors import UserError
from tlab.core.text import few
from tlab.models.weights import Weights

log = logging.getLogger(__name__)

NAMED = 6  # keys that a message names
FEW = 10  # keys that may differ in a variant of a model, for which no other model is sought
# Parts of a key that torch.compile, data parallelism, FSDP and activation checkpointing put in.
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
AVERAGED = "n_averaged"  # the counter of torch's AveragedModel
COUNTER = "num_batches_tracked"  # that of a BatchNorm, which old files lack
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # side classifiers of GoogLeNet and Inception, off in tlab
# Of several networks that fit alike, one below such a name comes second: an average or slow copy of what was
# trained, and the student of a teacher, whom self-supervised methods evaluate (Caron et al. 2021, "DINO").
SECOND = re.compile(r"(^|[._])(ema|average|averaged|encoder_k|momentum|target|student)([._]|$)")
# torchvision renamed these layers of DenseNet and ViT; its files have the old names, which its own loading renames
# (torchvision.models.densenet, torchvision.models.vision_transformer.MLPBlock).
OLD_NAMES = (
    (re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)$"), r"\1\2"),
    (re.compile(r"^(.*encoder\.layers\..+\.mlp)\.linear_1\.(.+)$"), r"\1.0.\2"),
    (re.compile(r"^(.*encoder\.layers\..+\.mlp)\.linear_2\.(.+)$"), r"\1.3.\2"),
)


def fit_to(
    weights: Weights, model: nn.Module, name: str, classifier: str, stages: Mapping[str, Collection[str]]
) -> None:
    """Copy `weights` into `model` in place, and take out the classifier's rows.

    The model's keys are looked for below any prefix (`net.`, `state_dict.model.`), also where layers have numbers
    for names, as in `nn.Sequential(*model.children())`. All below the classifier's place that is not the model's
    own counts as the classifier that it was trained with. What else has no place is named in one line of the log,
    unless it lies among the model's own layers: then the model is another one.

    Args:
        weights: Weights as read; afterwards `tensors` holds what was loaded, `classifier` the rows of the source
            classifier, if there are any.
        model: The original torchvision or timm model.
        name: Name of the model, for messages.
        classifier: Path of its classifier ("" where it has none).
        stages: Stage in use -> its keys, in order; keys of other layers may be missing.

    Raises:
        UserError: A key of `stages` is missing, a key has no place among the model's layers, a shape differs, or a
            number is not finite, or not real.
    """
    own = model.state_dict()
    needed = {key for keys in stages.values() for key in keys}
    wrappers = WRAPPERS - {part for key in own for part in key.split(".")}  # iformer has layers named `module`
    tensors = {
        _present_name(key, wrappers): tensor
        for key, tensor in weights.tensors.items()
        if key.rpartition(".")[2] != AVERAGED
    }
    tensors = _numbers_named(tensors, own, needed, classifier)
    prefix = _prefix(tensors, {key: own[key] for key in needed}, weights.pretraining.description)
    if prefix:
        where = f"{weights.pretraining.description}, {prefix.removesuffix('.')}"
        weights.pretraining = replace(weights.pretraining, description=where)
    below = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    found = {key: tensor for key, tensor in below.items() if key in own or not key.startswith(AUXILIARY)}
    outside = [key for key in tensors if not key.startswith(prefix)]
    _check_kinds(found, own, weights.pretraining.description)
    _resize_positions(found, model, own)
    if classifier:
        _take_classifier(weights, found, own, classifier, needed)
    layers = {key.partition(".")[0] for key in own}
    foreign = found.keys() - own.keys()
    among = {key for key in foreign if key.partition(".")[0] in layers}
    missing = {key for key in needed - found.keys() if not key.endswith(COUNTER)}
    shapes = {key for key in found.keys() & own.keys() if found[key].shape != own[key].shape}
    if missing or among or shapes:
        unlike = [f"{key} {tuple(found[key].shape)} instead of {tuple(own[key].shape)}" for key in sorted(shapes)]
        problems = {"missing": missing, "without a place": foreign, "of another shape": unlike}
        told = [f"{len(keys)} {what} ({few(sorted(keys), NAMED)})" for what, keys in problems.items() if keys]
        raise UserError(
            f"backbone.weights ({weights.pretraining.description}) does not fit {name}: {'; '.join(told)}; "
            f"{_way_out(stages, missing | shapes, among, found, name)}"
        )
    if left_out := [*(prefix + key for key in sorted(foreign)), *outside]:
        log.info("%s: left out %s", weights.pretraining.description, few(left_out, NAMED))
    weights.tensors = {key: tensor for key, tensor in found.items() if key in own}
    if broken := [prefix + key for key, tensor in weights.tensors.items() if not tensor.isfinite().all()]:
        raise UserError(
            f"backbone.weights ({weights.pretraining.description}) holds NaN or infinity "
            f"({few(broken, NAMED)}): its training failed; give a file from before that"
        )
    own.update(weights.tensors)  # it says the versions of the layers, which MNASNet wants to know
    model.load_state_dict(own)


def _check_kinds(found: Mapping[str, Tensor], own: Mapping[str, Tensor], description: str) -> None:
    """Refuse tensors of other than real numbers where the model has such."""
    other = {
        key: str(tensor.dtype).removeprefix("torch.")
        for key, tensor in found.items()
        if tensor.is_quantized or (key in own and own[key].is_floating_point() and not tensor.is_floating_point())
    }
    if other:
        raise UserError(
            f"backbone.weights ({description}) holds {few(dict.fromkeys(other.values()))} in place of real numbers "
            f"({few(other, NAMED)}), as after quantization; give the file from before that"
        )


def _numbers_named(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], needed: set[str], classifier: str
) -> dict[str, Tensor]:
    """Return a file's tensors with the model's names for layers that have numbers there.

    Where tensors follow each other in the model's order and shapes, for at least half of those needed, and their
    names differ from the model's in numbers alone, they are the model's. The classifier may have other classes.
    """

    def alike(pair: tuple[str, str]) -> bool:
        theirs, ours = tensors[pair[0]], own[pair[1]]
        same = theirs.shape == ours.shape or (_is_below(pair[1], classifier) and theirs.ndim == ours.ndim)
        return same and pair[0].rpartition(".")[2] == pair[1].rpartition(".")[2]

    keys, renamed = [*tensors], dict[str, str]()
    counted = any(key.endswith(COUNTER) for key in keys)
    mine = [key for key in own if counted or not key.endswith(COUNTER)]
    for start in range(len(keys)):
        pairs = [*takewhile(alike, zip(keys[start:], mine, strict=False))]
        body = [theirs.split(".")[:-1] for theirs, ours in pairs if not _is_below(ours, classifier)]
        if 2 * len(needed.intersection(ours for _, ours in pairs)) < len(needed.intersection(mine)):
            continue
        wrapper = [parts[0] for parts in takewhile(lambda parts: len({*parts}) == 1, zip(*body, strict=False))]
        if all(theirs.endswith(ours) for theirs, ours in pairs[: len(body)]):
            continue  # they have the model's names
        within = {theirs: ours for theirs, ours in pairs if theirs.split(".")[: len(wrapper)] == wrapper}
        if all(_but_for_numbers(key.split(".")[len(wrapper) :], ours.split(".")) for key, ours in within.items()):
            renamed |= {key: ".".join([*wrapper, ours]) for key, ours in within.items()}
    return {renamed.get(key, key): tensor for key, tensor in tensors.items()}


def _is_below(key: str, classifier: str) -> bool:
    return bool(classifier) and key.startswith(f"{classifier}.")


def _but_for_numbers(parts: Sequence[str], own: Sequence[str]) -> bool:
    """Tell whether all parts of a key that are no numbers are among the model's, in this order."""
    left = iter(own)
    return all(part in left for part in parts if not part.isdigit())


def _prefix(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], description: str) -> str:
    """Return what the keys of the best fitting network in a file begin with ("", or ending in a dot)."""
    scores: dict[str, Counter[str]] = defaultdict(Counter)
    depth = max((key.count(".") for key in wanted), default=0) + 1
    for key, tensor in tensors.items():
        parts = key.split(".")
        for start in range(max(0, len(parts) - depth), len(parts)):
            if (target := wanted.get(".".join(parts[start:]))) is not None:
                prefix = "".join(f"{part}." for part in parts[:start])
                scores[prefix].update(alike=tensor.shape == target.shape, named=1)
    if not scores:
        return ""
    best = max((score["alike"], score["named"]) for score in scores.values())
    fitting = [prefix for prefix, score in scores.items() if (score["alike"], score["named"]) == best]
    chosen = min(fitting, key=lambda prefix: SECOND.search(prefix) is not None)  # else the first in the file
    if len(fitting) > 1 and best[0] >= sum(not key.endswith(COUNTER) for key in wanted):
        names = [prefix.removesuffix(".") or "the file itself" for prefix in fitting]
        taken = names[fitting.index(chosen)]
        log.info("%s holds %d networks that fit (%s): %s is taken", description, len(names), few(names), taken)
    return chosen


def _take_classifier(
    weights: Weights, found: dict[str, Tensor], own: Mapping[str, Tensor], classifier: str, needed: Collection[str]
) -> None:
    """Move the classifier's rows from `found` to `weights.classifier`, and drop the rest of one of another form.

    That is all below its path, and all beside it (`heads.weight` where the model has `heads.head.weight`) that the
    stages do not need and the model does not have.
    """
    container = classifier.partition(".")[0] + "."
    old = {
        key: found.pop(key)
        for key in sorted(found)
        if key.startswith(f"{classifier}.")
        or (
            key.startswith(container)
            and key not in needed
            and (key not in own or own[key].shape != found[key].shape)
        )
    }
    matrices = [key for key, tensor in old.items() if key.endswith(".weight") and tensor.ndim > 1]
    if len(matrices) == 1:
        layer = matrices[0].removesuffix("weight")
        if old.keys() <= {f"{layer}weight", f"{layer}bias"}:
            weights.classifier = {
                key.removeprefix(layer): row.flatten(1) if row.ndim > 1 else row for key, row in old.items()
            }
    if old.keys() - {f"{classifier}.weight", f"{classifier}.bias"}:
        log.info(
            "%s: its classifier had been replaced; %s taken as its old head",
            weights.pretraining.description,
            f"{few(old, NAMED)} {'is' if len(old) == 1 else 'are'}",
        )


def _way_out(
    stages: Mapping[str, Collection[str]],
    lacking: set[str],
    among: Collection[str],
    found: Mapping[str, Tensor],
    name: str,
) -> str:
    """Return the override with which weights can be used that do not fit, as far as it can be told.

    Args:
        stages: Stage in use -> its keys, in order.
        lacking: Keys that are missing or of another shape.
        among: Keys of the file without a place among the model's layers.
        found: The file's tensors by key.
        name: The model's name.
    """
    whole = [stage for stage, keys in stages.items() if keys and not any(key in lacking for key in keys)]
    last = [*stages].index(whole[-1]) + 1 if whole else len(stages)
    rest = [key for keys in list(stages.values())[last:] for key in keys]
    empty = all(key in lacking or key.endswith(COUNTER) for key in rest)
    if not among and empty and lacking <= {*rest}:  # all is there up to a stage, and nothing behind it
        return f"use the stages that it has: backbone.upto={whole[-1]}"
    if len(lacking) + len(among) > FEW and (other := _fitting_model(found, name)) is not None:
        return f"it fits backbone={other}"
    return "choose the backbone that these weights belong to"


def _fitting_model(found: Mapping[str, Tensor], name: str) -> str | None:
    """Return the torchvision model that the tensors belong to, but for its last layer; None where none fits."""
    family = re.match(r"[a-z]*", name)
    known = torchvision.models.list_models(module=torchvision.models)
    for other in sorted(known, key=lambda other: not family or not other.startswith(family[0])):
        # some compute with values, which there are none of, and some warn of how they will be filled
        with suppress(Exception), warnings.catch_warnings(action="ignore"), torch.device("meta"):
            state = torchvision.models.get_model_builder(other)(weights=None).state_dict()
            last = list(state)[-1].rpartition(".")[0]
            layers = {key.partition(".")[0] for key in state if not key.startswith(last)}
            body, theirs = (
                {
                    key: tensor.shape
                    for key, tensor in tensors.items()
                    if key.partition(".")[0] in layers and not key.startswith(last) and not key.endswith(COUNTER)
                }
                for tensors in (state, found)
            )
            if body and body == theirs:
                return other
    return None


def _present_name(key: str, wrappers: Collection[str]) -> str:
    key = ".".join(part for part in key.split(".") if part not in wrappers)
    for old, present in OLD_NAMES:
        key = old.sub(present, key)
    return key


def _resize_positions(tensors: dict[str, Tensor], model: nn.Module, own: Mapping[str, Tensor]) -> None:
    """Interpolate a ViT's position embedding to the image size that the model was built for."""
    for key in ("encoder.pos_embedding", "pos_embed"):  # torchvision's and timm's
        if key not in own or key not in tensors or own[key].shape == tensors[key].shape:
            continue
        with suppress(Exception):  # positions that are no grid stay, and are told to be of another shape
            tensors[key] = _resized(tensors[key].float(), own[key], model, key)


def _resized(positions: Tensor, own: Tensor, model: nn.Module, key: str) -> Tensor:
    if isinstance(model, torchvision.models.VisionTransformer):
        return interpolate_embeddings(model.image_size, model.patch_size, {key: positions})[key]
    from timm.layers import resample_abs_pos_embed

    grid: Any = model.patch_embed
    prefix = own.shape[1] - grid.num_patches
    return resample_abs_pos_embed(positions, list(grid.grid_size), num_prefix_tokens=prefix)
