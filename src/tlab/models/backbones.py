"""Build a staged backbone from the name of a torchvision or timm model."""

import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode

from tlab.core.error_messages import bare
from tlab.core.errors import DownloadFailed, UserError
from tlab.core.text import counted
from tlab.models.builder_arguments import build, checked
from tlab.models.head_init import sees_pooled_features
from tlab.models.stages import Pretraining, StagedBackbone, Tokens, digest
from tlab.models.staging.splitting import split, whole
from tlab.models.staging.tracing import CLASSIFIERS, NotTraceableError
from tlab.models.weight_matching import fit_to
from tlab.models.weights import OFFLINE, Weights, fetch_from_torchvision, read_classes, read_weights

# Auxiliary classifiers are off. The input transform is on with and without weights (torchvision turns it on with
# its own), so that a checkpoint means the same network however it is loaded.
SIDE_CLASSIFIERS = {"aux_logits": False, "transform_input": True}
# What fills a new layer's weights with random values: functions of torch.nn.init, and the methods that they call
RANDOM_FILLS = {
    *("uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_"),
    *("xavier_uniform_", "xavier_normal_", "orthogonal_"),
}
SIZED = {"vit_": "image_size", "maxvit_": "input_size"}  # torchvision models built for one image size: its argument


def build_backbone(
    name: str,
    library: str = "torchvision",
    weights: str | None = "DEFAULT",
    weights_classes: str | None = None,
    upto: str | None = None,
    random_from: str | None = None,
    stages: Mapping[str, str] | None = None,
    classifier: str | None = None,
    batchnorm_momentum: float | None = None,
    input_size: int = 224,
    image_size: int | None = None,
    kwargs: Mapping[str, Any] | None = None,
    pooling: str = "avg",
    tokens_apart: bool = True,
) -> StagedBackbone:
    """Build a model, load its weights, and cut it into stages without its classifier.

    Args:
        name: Name in torchvision or timm, for example `resnet18`.
        library: "torchvision" or "timm".
        weights: `DEFAULT` or another named set of weights, `bundled`, a file, or None for random initialization.
        weights_classes: JSON file with the class names of a weights file.
        upto: Last stage to keep; None keeps all.
        random_from: First stage that keeps its random initialization, BatchNorm's statistics included, and with it
            all that follow (Yosinski et al., "How transferable are features in deep neural networks?", 2014); the
            weights' classifier, which knows other features, is then left out. None: all stages get the weights.
        stages: Stage name -> path of its first module, in order; None: the general rule of `splitting.split`.
        classifier: Path of the model's last layer; None finds it.
        batchnorm_momentum: Share of a batch in BatchNorm's running statistics; None: the model's own. At 0.01 (as
            in torchvision's MobileNetV3) they lag hundreds of steps behind the weights, so that a short run is
            evaluated with the statistics of an earlier network.
        input_size: Side in pixels of the images the model is meant for, where its weights do not tell.
        image_size: Side in pixels of the images it will get; None: what the weights were trained with.
        kwargs: Further arguments of the library's builder (`drop_path_rate`), plain values.
        pooling: The head's pooling. With "avg", the default, an uncut network pools its tokens itself, as it was
            trained to; otherwise it returns all of them, after the last norm.
        tokens_apart: Whether to tell class token and registers from patches; False for runs of earlier versions.

    Raises:
        UserError: A name, file, stage, argument or size does not exist or does not fit.
    """
    if library not in ("torchvision", "timm"):
        raise UserError(f"backbone.library={library} is unknown, choose torchvision or timm")
    kwargs = checked(kwargs or {})
    names = _torchvision_names(name) if library == "torchvision" else _timm_names(name)
    named = library == "timm" and weights in ("DEFAULT", *names)
    read = read_weights(weights, name, names) if weights is not None and not named else None
    known_size = image_size or (read.pretraining.input_size if read else 0)
    if library == "torchvision":
        model = _build_torchvision(name, known_size or input_size, has_weights=read is not None, kwargs=kwargs)
    else:
        model, cfg = _build_timm(name, image_size, str(weights) if named else None, kwargs, fix_size=tokens_apart)
        input_size = cfg["input_size"][-1]
    size = known_size or input_size
    if classifier and classifier not in dict(model.named_modules()):
        raise UserError(f"backbone.classifier={classifier} is no module of {name}, give the path of its last layer")
    unpooled = tokens_apart and pooling != "avg"
    stages_, classifier = _parts(model, name, stages, classifier, size, unpooled)
    parts = _cut(stages_, name, upto)
    if random_from is not None:
        _check_stage("random_from", random_from, parts)
    stage_keys = {stage: list(part.state_dict()) for stage, part in parts.items()}
    if read is not None:
        if library == "torchvision" and classifier:
            for part in model.get_submodule(classifier).modules():  # gets no weights, and zeros hide what follows
                if isinstance(part, CLASSIFIERS):
                    part.reset_parameters()
        fit_to(read, model, name, classifier, stage_keys)
    elif named:
        read = _of_timm(model, name, classifier, cfg)
    if read is not None and random_from is not None:
        random = build_backbone(
            name,
            library,
            weights=None,
            upto=upto,
            stages=stages,
            classifier=classifier,
            input_size=input_size,
            image_size=size,
            kwargs=kwargs,
            pooling=pooling,
            tokens_apart=tokens_apart,
        )
        for stage in list(parts)[list(parts).index(random_from) :]:
            parts[stage].load_state_dict(random.stages[stage].state_dict())
        told = f"{read.pretraining.description}, random from {random_from} on"
        read.pretraining = dataclasses.replace(read.pretraining, classes=None, head_layers={}, description=told)
        read.classifier, weights_classes = {}, None
    if batchnorm_momentum is not None:
        for module in (module for part in parts.values() for module in part.modules()):
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = batchnorm_momentum
    pretraining = _pretraining(read, weights_classes, input_size, nn.ModuleDict(parts))
    pools_itself = len(parts) == len(stages_) and not unpooled and getattr(model, "global_pool", None) != ""
    tokens: Tokens = "mixed" if not tokens_apart else "pooled" if pools_itself else "apart"
    variant = f"{library} {name} {json.dumps(kwargs, sort_keys=True)}"
    backbone = StagedBackbone(parts, pretraining, size, tokens, variant)
    if read is not None and backbone.pretraining.classes is not None and "weight" in read.classifier:
        if read.pretraining.pooling is None:
            fits = sees_pooled_features(model, classifier, backbone, size)
        else:  # a tlab head: it saw these features if the backbone was cut at the same place
            keys = {key for each in stage_keys.values() for key in each}
            fits = read.tensors.keys() == keys and read.prefix_tokens == backbone.prefix_tokens
        backbone.pretraining = dataclasses.replace(backbone.pretraining, classifier_fits=fits)
    return backbone


def _parts(
    model: nn.Module, name: str, stages: Mapping[str, str] | None, classifier: str | None, size: int, unpooled: bool
) -> tuple[dict[str, nn.Module], str]:
    try:
        return split(model, stages, classifier, tokens_at=size if unpooled else None)
    except NotTraceableError as error:
        if stages:
            raise UserError(f"backbone.stages cannot be cut, because {error}; use backbone.stages=null") from error
    try:
        return whole(model, size, classifier)
    except UserError as error:
        raise UserError(f"backbone.name={name}: {error}") from error


def _cut(parts: dict[str, nn.Module], name: str, upto: str | None) -> dict[str, nn.Module]:
    if upto is None:
        return parts
    if len(parts) == 1 and upto not in parts:
        raise UserError(
            f"backbone.upto={upto} cannot cut backbone.name={name}, whose stages tlab cannot tell apart; leave it "
            "out, or choose another model"
        )
    _check_stage("upto", upto, parts)
    return dict(list(parts.items())[: list(parts).index(upto) + 1])


def _check_stage(key: str, stage: str, parts: Mapping[str, nn.Module]) -> None:
    if stage not in parts:
        raise UserError(f"backbone.{key}={stage} is no stage of this backbone, choose one of {', '.join(parts)}")


def _pretraining(read: Weights | None, classes_file: str | None, input_size: int, parts: nn.Module) -> Pretraining:
    if read is None:
        return Pretraining(input_size, digest=digest(parts))
    rows = {part: value.float().clone() for part, value in read.classifier.items()}
    classes = read_classes(classes_file) if classes_file else read.pretraining.classes
    if classes is not None and "weight" in rows and len(classes) != len(rows["weight"]):
        if classes_file:
            raise UserError(
                f"backbone.weights_classes={classes_file} lists {counted(classes, 'class', 'classes')}, but the "
                f"classifier of the weights has {len(rows['weight'])}; give the list that belongs to them"
            )
        classes = None
    return dataclasses.replace(
        read.pretraining,
        input_size=read.pretraining.input_size or input_size,
        tells_size=read.pretraining.input_size > 0,
        classes=classes,
        classifier_weight=rows.get("weight"),
        classifier_bias=rows.get("bias"),
        digest=digest(parts),
    )


def _torchvision_names(name: str) -> list[str]:
    """Return the named weights that torchvision has for `name`, DEFAULT first."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise _unknown(name, known, "torchvision")
    members = list(torchvision.models.get_model_weights(name).__members__)
    return sorted(members, key=lambda member: member != "DEFAULT")


def _unknown(name: str, known: Sequence[str], library: str) -> UserError:
    plain = {bare(each): each for each in known}
    close = difflib.get_close_matches(bare(str(name)), plain, n=4, cutoff=0.5) or list(plain)[:4]
    other = "timm" if library == "torchvision" else "torchvision"
    return UserError(
        f"backbone.name={name} is no {library} model, did you mean {', '.join(plain[each] for each in close)}? "
        f"(for {other} models: backbone={other})"
    )


class _NoRandomFills(TorchFunctionMode):
    """Skips random initialization, which takes long, for values that the weights overwrite; sets all others."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensor = args[0] if args else kwargs.get("tensor")
        if getattr(func, "__name__", "") in RANDOM_FILLS and isinstance(tensor, torch.Tensor):
            with torch.no_grad():
                return tensor.zero_()  # what a file may lack, such as another head's layers, must be finite
        return func(*args, **kwargs)


def _build_torchvision(name: str, size: int, has_weights: bool, kwargs: dict[str, Any]) -> nn.Module:
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {**SIDE_CLASSIFIERS, "init_weights": not has_weights}
    for prefix, argument in SIZED.items():
        if name.startswith(prefix):
            options[argument] = size if argument == "image_size" else (size, size)
    try:
        with _NoRandomFills() if has_weights else nullcontext():
            builder = torchvision.models.get_model_builder(name)
            return build(builder, name, kwargs, weights=None, **options)
    except (AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"data.image_size={size} does not suit {name} ({reason}), try data.image_size=224"
        ) from error


def _timm_names(name: str) -> list[str]:
    """Return the tags of the weights that timm has for `name`."""
    import timm  # which only its own backbones need: it takes a second

    known = timm.list_models()
    architecture = str(name).partition(".")[0]
    if architecture not in known:
        raise _unknown(architecture, known, "timm")
    tagged = timm.list_pretrained(f"{architecture}.*")
    return ["DEFAULT", *(full.partition(".")[2] for full in tagged)]


def _build_timm(
    name: str, size: int | None, weights: str | None, kwargs: dict[str, Any], fix_size: bool
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a timm model, with weights downloaded where `weights` names them, and timm's description of it.

    With `fix_size`, a model for any image size is built for one, since its forward could not be traced otherwise.
    """
    import timm
    from safetensors import SafetensorError

    full = name if weights in (None, "DEFAULT") else f"{name.partition('.')[0]}.{weights}"
    cfg: Any = timm.get_pretrained_cfg(full)
    fixed = {"img_size": size} if size and cfg.fixed_input_size else {}
    own = {"model_name": full, "pretrained": weights is not None}
    try:
        with _asking_the_hub_once() if weights is not None and cfg.hf_hub_id else nullcontext():
            model: Any = build(timm.create_model, name, kwargs, **own, **fixed)
            if fix_size and getattr(model, "dynamic_img_size", False) and "dynamic_img_size" not in kwargs:
                fixed = {"img_size": size or model.pretrained_cfg["input_size"][-1], "dynamic_img_size": False}
                model = build(timm.create_model, name, kwargs, **own, **fixed)
    except (AssertionError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        if weights is None or isinstance(error, AssertionError):
            raise UserError(f"{name} cannot be built for data.image_size={size} ({error}), try 224") from error
        raise _not_fetched(weights, cfg, error) from error
    return model, model.pretrained_cfg


def _not_fetched(weights: str, cfg: Any, error: Exception) -> DownloadFailed:
    """Return the error for weights of timm's that the network does not give."""
    wanted = cfg.hf_hub_id or cfg.url or "(timm names no file)"
    return DownloadFailed(
        f"backbone.weights={weights} needs {wanted} from the Hugging Face hub (cache: $HF_HOME), "
        f"and that failed ({str(error).splitlines()[0]})",
        f"work {OFFLINE}",
    )


def fetch_weights(name: str, library: str, weights: str) -> None:
    """Download named weights that are not on this machine; no model is built, and other weights are left alone.

    Args:
        name: Name in torchvision or timm.
        library: "torchvision" or "timm".
        weights: `DEFAULT` or another value of `backbone.weights`.

    Raises:
        DownloadFailed: They cannot be fetched.
        UserError: There is no model of this name.
    """
    member = weights.rpartition(".")[2]
    if library == "torchvision":
        if member in _torchvision_names(name) and not Path(weights).is_file():
            fetch_from_torchvision(name, member)
        return
    if weights not in _timm_names(name):
        return
    import timm
    from safetensors import SafetensorError

    cfg: Any = timm.get_pretrained_cfg(name if weights == "DEFAULT" else f"{name.partition('.')[0]}.{weights}")
    if cfg.hf_hub_id and not _is_cached(cfg):
        file = {"filename": cfg.hf_hub_filename} if cfg.hf_hub_filename else {}
        try:
            with _asking_the_hub_once():
                timm.models.load_state_dict_from_hf(cfg.hf_hub_id, **file)
        except (ValueError, RuntimeError, OSError, SafetensorError) as error:
            raise _not_fetched(weights, cfg, error) from error


def _is_cached(cfg: Any) -> bool:
    """Tell whether a file of timm's weights from the Hugging Face hub is on this machine."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = cfg.hf_hub_id.partition("@")
    names = [cfg.hf_hub_filename] if cfg.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    return any(
        isinstance(try_to_load_from_cache(repository, name, revision=revision or None), str) for name in names
    )


@contextmanager
def _asking_the_hub_once() -> Iterator[None]:
    """Let the Hugging Face hub's files come from its cache alone in the block, if it does not answer now.

    Its own library would ask six times for each file, for half a minute.
    """
    from huggingface_hub import constants, get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError

    before = constants.HF_HUB_OFFLINE
    try:
        if not before:
            get_hf_file_metadata(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except HfHubHTTPError:
        pass  # it has answered
    except Exception:  # of one type for each way in which a network can fail
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _of_timm(model: nn.Module, name: str, classifier: str, cfg: dict[str, Any]) -> Weights:
    """Describe the weights that timm has loaded."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    state = model.state_dict()
    rows = {part: state[key] for part in ("weight", "bias") if (key := f"{classifier}.{part}") in state}
    subset = infer_imagenet_subset(cfg)
    classes = tuple(ImageNetInfo(subset).label_descriptions()) if subset else None
    description = f"timm {cfg.get('architecture', name)}.{cfg.get('tag', '')}"
    known = Pretraining(cfg["input_size"][-1], cfg["mean"], cfg["std"], classes, description=description)
    return Weights({}, known, rows)
