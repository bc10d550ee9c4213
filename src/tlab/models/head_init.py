"""Initialize the head's rows of classes that the weights already know from the source classifier."""

import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tlab.core.errors import UserError
from tlab.core.text import few, shell_command
from tlab.models.head import Head, Standardize, pool
from tlab.models.stages import Pretraining, StagedBackbone, evaluating

log = logging.getLogger(__name__)

NAMED = 8  # classes that the message names


def reuse_rows(
    head: Head, pretraining: Pretraining, classes: Sequence[str], reuse: str | Mapping[str, str] | None
) -> dict[str, str]:
    """Copy rows of the source classifier into `head.linear`, in place; of a tlab head also what lies before them.

    A target class gets its source class's row and bias minus their means over all source classes. A softmax does
    not see what is taken from every row alike, so the zero rows of the other classes mean "an average class", and
    a net whose classes are all source classes starts with the source model's own probabilities.

    Args:
        head: New head, its last layer at zero; afterwards `head.reused` holds what is returned.
        pretraining: Pretraining of the backbone in front of it.
        classes: Names of the target classes, in the order of the logits.
        reuse: "auto": classes of the same name (see `find_source`), if they are more than half of all; target
            class -> source class; None: nothing. A few trained rows beside zero ones start a head askew: with one
            of two (benchmarks/warm_start.py) it was better before training and worse after it.

    Returns:
        Target class -> source class, for the rows that were taken.

    Raises:
        UserError: An explicit map names unknown classes, or head or weights do not suit it.
    """
    if reuse is None:
        return {}
    if reuse != "auto" and not isinstance(reuse, Mapping):
        raise UserError(f"head.reuse={reuse} is unknown, choose auto, null or a map such as {{bees: bee}}")
    source = pretraining.classes or ()
    rows = _of_same_name(classes, source) if reuse == "auto" else {}
    if (obstacle := _obstacle(head, pretraining)) is not None:
        if isinstance(reuse, Mapping):
            raise UserError(f"head.reuse takes no rows, because {obstacle}, or set head.reuse=null")
        if rows:  # else there is nothing to miss
            log.info("head.reuse=auto takes no rows, because %s", obstacle)
        return {}
    if isinstance(reuse, Mapping):
        rows = _chosen(reuse, classes, source)
    if reuse == "auto" and 0 < 2 * len(rows) <= len(classes):
        names = f"{len(rows)} of {len(classes)} classes: {few(rows, NAMED)}"
        log.info("head.reuse=auto: the head starts anew, since the weights know only %s", names)
        return {}
    weight, bias = pretraining.classifier_weight, pretraining.classifier_bias
    assert weight is not None
    with torch.no_grad():
        for target, index in rows.items():
            number = classes.index(target)
            head.linear.weight[number] = weight[index] - weight.mean(dim=0)
            if bias is not None:
                head.linear.bias[number] = bias[index] - bias.mean()
    if rows:
        head.load_state_dict(dict(pretraining.head_layers), strict=False)
    head.reused = {target: source[index] for target, index in rows.items()}
    if rows:
        pairs = [f"{target} ({name.split(',')[0]})" for target, name in head.reused.items()]
        log.info("head.reuse: %d of %d rows come from the weights: %s", len(rows), len(classes), few(pairs, NAMED))
    return head.reused


def sees_pooled_features(model: nn.Module, classifier: str, backbone: StagedBackbone, image_size: int) -> bool:
    """Tell whether the logits of `model` are its classifier applied to the backbone's averaged features.

    Measured on one random image, because no name tells: a backbone cut by `upto`, a norm in between, a class
    token where tlab averages, a layer after the classifier all make it another function of the same dimension.

    Args:
        model: The original model, whose parameters the stages share.
        classifier: Path of its classifier ("" where it has none).
        backbone: The stages in use.
        image_size: Side of the image in pixels.
    """
    if not classifier:
        return False
    calls: list[tuple[Tensor, Tensor]] = []
    hook = model.get_submodule(classifier).register_forward_hook(
        lambda _, inputs, output: calls.append((inputs[0].flatten(1), output.flatten(1)))
    )
    image = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with hook, evaluating(model), evaluating(backbone):
        logits = model(image).flatten(1)
        called = list(calls)  # a stage that is the whole model calls its place once more
        features = pool(backbone(image), "avg", backbone.prefix_tokens)
    if len(called) != 1:
        return False
    seen, output = called[0]
    return _equal(features, seen) and _equal(logits, output)


def _equal(a: Tensor, b: Tensor) -> bool:
    """Compare up to float32 rounding of a sum over positions."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def _obstacle(head: Head, pretraining: Pretraining) -> str | None:
    """Return why the source classifier's rows do not fit `head`, and what to change; None where they fit."""
    if pretraining.classifier_weight is None:
        return f"{pretraining.description} has no source classifier: give other backbone.weights"
    if pretraining.classes is None:
        return "the names of the source classes are not known: give them with backbone.weights_classes=FILE"
    ours_before = {key: value.shape for key, value in head.state_dict().items() if not key.startswith("linear.")}
    before = {key: value.shape for key, value in pretraining.head_layers.items()}
    if pretraining.pooling is not None:
        if (head.pooling, ours_before) != (pretraining.pooling, before):
            return f"they belong to another head: set {_settings(pretraining)}"
    elif head.pooling != "avg" or len(head.hidden) > 0:
        return "they belong to a linear layer on averaged features: set head.hidden=[] and head.pooling=avg"
    elif isinstance(head.norm, Standardize):
        return "they belong to features that are not standardized: set head.normalize=false"
    ours, theirs = head.linear.in_features, pretraining.classifier_weight.shape[1]
    if ours != theirs:
        return f"the source classifier has {theirs} inputs and the head {ours}: set backbone.upto=null"
    if not pretraining.classifier_fits:
        return (
            "the source classifier saw other features than the head gets: set backbone.upto=null, "
            "or choose a backbone whose classifier sees the average of its last stage"
        )
    return None


def _settings(pretraining: Pretraining) -> str:
    """Return the keys of a tlab head that tell its form, as it has them."""
    layers = pretraining.head_layers
    hidden = [len(value) for key, value in layers.items() if key.startswith("hidden.") and value.ndim == 2]
    normalize = any(key.startswith("norm.") for key in layers)
    settings = {"hidden": hidden, "normalize": str(normalize).lower(), "pooling": pretraining.pooling}
    return shell_command(f"head.{key}={value}".replace(" ", "") for key, value in settings.items())


def _plain(name: str) -> str:
    """Return `name` without case, spaces, `_` and `-`."""
    return re.sub(r"[\s_-]", "", name).casefold()


def find_source(name: str, source: Sequence[str]) -> list[int]:
    """Return the source classes called `name`: by their whole name, else by one of its comma-separated lemmas.

    Case, spaces, `_` and `-` make no difference ("tailed_frog" is "tailed frog, bell toad").
    """
    whole = [index for index, other in enumerate(source) if _plain(other) == _plain(name)]
    return whole or [
        index for index, other in enumerate(source) if _plain(name) in set(map(_plain, other.split(","))) - {""}
    ]


def _of_same_name(classes: Sequence[str], source: Sequence[str]) -> dict[str, int]:
    """Match by name; a name that two source classes share (ImageNet's cranes) tells nothing and is left out."""
    found = {name: find_source(name, source) for name in classes}
    return {name: indices[0] for name, indices in found.items() if len(indices) == 1}


def _chosen(reuse: Mapping[Any, Any], classes: Sequence[str], source: Sequence[str]) -> dict[str, int]:
    """Look up an explicit map; a `UserError` names a class that does not exist, or whose name means several."""
    rows: dict[str, int] = {}
    for target, name in ((str(target), str(name)) for target, name in reuse.items()):
        if target not in classes:
            raise UserError(f"head.reuse names {target}, which is no class of the data: {few(classes, NAMED)}")
        indices = find_source(name, source)
        if len(indices) > 1:
            names = " and ".join(f"{source[index]!r} (number {index})" for index in indices)
            raise UserError(
                f"head.reuse: {target}: {name} means {names}; give the whole name of one, or a "
                "backbone.weights_classes in which their names differ"
            )
        if not indices:
            raise UserError(
                f"head.reuse: {target}: {name} is no source class, did you mean {few(_close(name, source), NAMED)}?"
            )
        rows[target] = indices[0]
    return rows


def _close(name: str, source: Sequence[str]) -> list[str]:
    """Return the source classes with a lemma like `name`, or, where there is none, the first ones."""
    lemmas = {_plain(lemma): lemma.strip() for entry in source for lemma in entry.split(",")}
    close = difflib.get_close_matches(_plain(name), list(lemmas), n=4, cutoff=0.5)
    return [lemmas[plain] for plain in close] or [entry.split(",")[0] for entry in source[:4]]
