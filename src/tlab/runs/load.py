"""A trained network, read back from a run directory or a checkpoint."""

import difflib
import glob
import inspect
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from tlab.config.overrides import shell_argument
from tlab.config.safe_loading import TARGETS, read_config, read_loss
from tlab.config.schema import LARGEST_IMAGE_SIZE, PRECISIONS
from tlab.config.validation import check_value
from tlab.core.error_messages import one_line
from tlab.core.errors import UserError
from tlab.data.decode_options import DecodeOptions, levels_from, options_of
from tlab.models.autotune.precision import Precision
from tlab.models.calibration.temperature import Temperature, is_temperature, temperature_of
from tlab.models.classifier import Classifier
from tlab.models.head import Head
from tlab.models.losses import Loss, fitting
from tlab.models.module import ImageClassifier
from tlab.models.stages import StagedBackbone
from tlab.models.uncertainty.uncertainty import Uncertainty
from tlab.runs.directory import RunDirectory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds."""

    module: ImageClassifier  # the network with its weights, in evaluation mode
    classes: tuple[str, ...]  # names of the K classes, in the order of the logits
    config: DictConfig  # as composed; parts that are never built from a file are plain values
    precision: Precision  # in which the run trained
    image_size: int  # side in pixels of the images that the network expects
    resize: str  # `crop` or `pad`
    crop_fraction: float  # share of the shorter side that `crop` keeps
    decode_options: DecodeOptions  # how image files are decoded
    uncertainty: Uncertainty | None  # where known images end; None in a checkpoint that does not tell
    temperature: Temperature  # what probabilities are calibrated by
    checkpoint: Path
    refitted: bool = False  # whether it has been trained on the run's validation images too


def _is_list(value: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(type(item) in kinds for item in value)


def _are_levels(value: Any) -> bool:
    try:
        levels_from(value)
    except (TypeError, ValueError):
        return False
    return True


# What a checkpoint says about its network besides the configuration, and whether a value is valid.
TOLD: dict[str, Callable[[Any], bool]] = {
    "classes": lambda value: _is_list(value, (str,)),
    "image_size": lambda value: type(value) is int and 2 <= value <= LARGEST_IMAGE_SIZE,
    "resize": lambda value: isinstance(value, str) and value in ("crop", "pad"),
    "crop_fraction": lambda value: type(value) in (int, float) and 0 < value <= 1,
    "mean": lambda value: _is_list(value, (int, float)) and len(value) == 3,
    "std": lambda value: _is_list(value, (int, float)) and len(value) == 3 and min(value) > 0,
    "levels": _are_levels,
    "class_counts": lambda value: value is None or (_is_list(value, (int,)) and min(value) >= 0),
    "precision": lambda value: isinstance(value, str) and value in PRECISIONS,
    "temperature": lambda value: value is None or is_temperature(value),
}


def build_head(cfg: DictConfig, backbone: StagedBackbone, num_classes: int) -> Head:
    """Return the head of a run's configuration, its last layer at zero (`head.reuse` is for `build_net`).

    Raises:
        UserError: The head pools a class token that the backbone does not have.
    """
    pooling = cfg.head.get("pooling", "avg")
    if pooling in ("token", "token_avg") and not backbone.has_class_token:
        raise UserError(
            f"head.pooling={pooling} needs a class token, and {cfg.backbone.name} has none after its last stage "
            f"({backbone.stage_names[-1]}); choose avg, max or avgmax"
        )
    options = {key: value for key, value in cfg.head.items() if key not in ("reuse", "solver")}
    prefix = {"prefix_tokens": backbone.prefix_tokens} if backbone.prefix_tokens else {}
    return instantiate(options, _convert_="all")(backbone.feature_dim, num_classes, **prefix)


def build_loss(
    cfg: DictConfig, classes: Sequence[str], class_counts: Tensor, mixes: bool
) -> tuple[Loss, Tensor | None]:
    """Return the loss of a run's configuration, and the class weights for what it returns.

    Its arguments `class_counts`, `class_weights` and `class_names` are filled in, where it has them and the
    configuration does not set them. There are class weights where `data.class_weights` asks for them and the loss
    has no argument for them.

    Args:
        cfg: The run's configuration.
        classes: Names of the K classes.
        class_counts: Number of training images of each class, `K`.
        mixes: Whether training mixes images.

    Raises:
        UserError: It is no loss for a classifier, see `models.losses.fitting`.
    """
    from tlab.data.datamodule import class_weights

    name = cfg.loss._target_
    weights = class_weights(class_counts) if cfg.data.class_weights else None
    known = {"class_counts": class_counts, "class_weights": weights, "class_names": list(classes)}
    build = instantiate(cfg.loss, _convert_="all", _partial_=True)
    taken: Collection[str] = ()
    with suppress(ValueError):  # one that is written in C does not tell
        taken = inspect.signature(build.func).parameters
    filled = {key: value for key, value in known.items() if key in taken and key not in cfg.loss}
    try:
        loss = partial(build, **filled) if cfg.loss.get("_partial_") else build(**filled)
    except Exception as error:  # a user's class can fail in any way
        raise UserError(f"loss._target_={name} cannot be built ({error}); {_remedy(build.func, error)}") from error
    if "class_weights" in taken:
        weights = None
    return fitting(loss, name, len(classes), mixes, weights is not None), weights


def _remedy(target: Any, error: Exception) -> str:
    """Return what to do about a loss that cannot be built."""
    if unknown := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
        return f"take the key away with ~loss.{unknown[1]}"
    if inspect.isfunction(target):
        return "if it is the loss itself, give +loss._partial_=true"
    return "correct its keys, or choose loss=cross_entropy"


def token_options(cfg: DictConfig, record: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the backbone's arguments about how its tokens are pooled; none for average pooling in a new run.

    Args:
        cfg: The run's configuration.
        record: Record of the run in its checkpoint or run.json, without "tokens" if the run began before tlab told
            class token and registers from patches; None or empty for a new run.
    """
    pooling = cfg.head.get("pooling", "avg")
    options = {} if pooling == "avg" else {"pooling": pooling}
    return options | {"tokens_apart": False} if record and record.get("tokens", "mixed") == "mixed" else options


def instantiate_backbone(
    cfg: DictConfig, weights: str | None, image_size: int, record: Mapping[str, Any] | None = None
) -> StagedBackbone:
    """Return the backbone of a run's configuration; one's own is not told what only tlab's has arguments for.

    Args:
        cfg: The run's configuration.
        weights: Weights to load; None for random ones.
        image_size: Side of the images in pixels.
        record: As in `token_options`.
    """
    node = {key: value for key, value in cfg.backbone.items() if key != "unfrozen_lr_scale"}  # the plan's
    options = token_options(cfg, record)
    if node["_target_"] not in TARGETS["backbone"]:
        options = {}
        for key in ("kwargs", "random_from"):
            if not node.get(key):
                node.pop(key, None)
    return instantiate({**node, "weights": weights, "image_size": image_size, **options}, _convert_="all")


def load_trained(path: Path, trust: bool = False, with_loss: bool = False) -> Trained:
    """Read the checkpoint of a run directory that is for use, or a checkpoint.

    A checkpoint is plain data and builds nothing but what `tlab.config.safe_loading` lists, whoever wrote it.

    Args:
        path: Path of the run directory, or of the checkpoint.
        trust: Whether to build whatever the file names as backbone, head and loss, which may run any code.
        with_loss: Whether to build the loss, which only measuring needs. Where it is none of tlab's, and `trust` is
            not given, it is cross-entropy, with a warning.

    Raises:
        UserError: There is no checkpoint, it is not one of tlab's, or it would build something else.
    """
    file = RunDirectory(path).used if path.is_dir() else path
    if not path.exists():
        raise UserError(f"{shell_argument('run', path)} does not exist{_near(path)}")
    if not file.exists():
        raise UserError(
            f"run={path} has no checkpoint at {file}; give the directory of a finished run, or a .ckpt file"
        )
    state_dict, about = _read(path, file)
    config = read_config(about.get("config"), file, trust)
    for key in ("data.batch_size", "data.max_megapixels"):
        check_value(key, OmegaConf.select(config, key))
    with blamed_on(file):
        backbone = instantiate_backbone(config, None, about["image_size"], about)
        head = build_head(config, backbone, len(about["classes"]))
        net = Classifier(backbone, head, about["mean"], about["std"])
        loss = _read_loss(about, config, file, trust) if with_loss else None
        module = ImageClassifier(
            net, tuple(about["classes"]), lambda groups: torch.optim.SGD(groups, lr=0.0), loss, channels_last=True
        )
        module.load_state_dict(state_dict if loss is not None else _without_loss(state_dict))
        kept = about.get("uncertainty")
        uncertainty = None if kept is None else Uncertainty.read(kept, len(about["classes"]), head.pooled_features)
    told = {name: about[name] for name in ("precision", "image_size", "resize", "crop_fraction")}
    options = options_of(config.data, levels_from(about.get("levels")))
    told |= {"decode_options": options, "checkpoint": file, "refitted": "refit" in about}
    told |= {"temperature": temperature_of(about), "uncertainty": uncertainty}
    return Trained(module.eval(), tuple(about["classes"]), config, **told)


def _near(path: Path) -> str:
    """Return a hint at the trained run whose path is most like one that is not there, else at the newest."""
    places = (*("outputs/runs/*", "outputs/multirun/*/*/seed=*"), f"{glob.escape(str(path.parent))}/*")
    found = {file for place in places for file in glob.glob(f"{place}/checkpoints/best.ckpt")}  # noqa: PTH207
    runs = {str(Path(file).parents[1]): Path(file).stat().st_mtime for file in found}
    if not runs:
        return "; give the directory of a finished run, or a .ckpt file"
    if close := difflib.get_close_matches(str(path), runs, n=1, cutoff=0.8):
        return f", did you mean {shell_argument('run', close[0])}"
    return f"; the newest is {shell_argument('run', max(runs, key=lambda run: runs[run]))}"


def _read_loss(about: Mapping[str, Any], config: DictConfig, file: Path, trust: bool) -> Loss | None:
    """Return the loss that a checkpoint names; None, with a warning, if it is not tlab's and there is no trust."""
    try:
        node = read_loss(about["config"], config, file, trust)
    except UserError as error:
        if trust:
            raise
        log.warning("loss is cross-entropy here: %s", error)
        return None
    counts = torch.tensor(about.get("class_counts") or [1] * len(about["classes"]))
    with_node = DictConfig({**config, "loss": node})
    return build_loss(with_node, about["classes"], counts, mixes=False)[0]


def _without_loss(state_dict: Any) -> Any:
    """Return the weights of the network alone; anything but a mapping as it is."""
    if not isinstance(state_dict, dict):
        return state_dict
    return {key: value for key, value in state_dict.items() if not str(key).startswith("loss.")}


@contextmanager
def blamed_on(file: Path) -> Iterator[None]:
    """Turn any error that a checkpoint's values cause inside the block into one sentence that names the file.

    Raises:
        UserError: The block raised an error; a `UserError` is passed on.
    """
    try:
        yield
    except Exception as error:  # a foreign value can fail in any way
        mistake = error.__cause__ if isinstance(error, InstantiationException) else error
        if isinstance(mistake, UserError):
            raise mistake from error.__cause__
        raise UserError(
            f"{file} does not fit together ({one_line(error)}); give a checkpoint that tlab.train wrote"
        ) from error


def _read(path: Path, file: Path) -> tuple[Any, dict[str, Any]]:
    """Return the weights of a checkpoint, and what it says about its network, validated."""
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(f"run={path}: {file} is damaged or no checkpoint; give another one of the run") from error
    about = checkpoint.get("tlab") if isinstance(checkpoint, dict) else None
    if not isinstance(about, dict):
        raise UserError(f"run={path}: {file} is not a checkpoint of tlab; give one that tlab.train wrote")
    for key, can_be in TOLD.items():
        if not can_be(about.get(key)):
            raise UserError(
                f"run={path}: {key} in {file} is none that a network has; give a checkpoint that tlab.train wrote"
            )
    return checkpoint.get("state_dict"), about
