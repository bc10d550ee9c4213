"""A trained network, read back from a run directory or a checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tlab.errors import UserError
from tlab.models.classifier import Classifier
from tlab.models.head import Head
from tlab.models.module import ImageClassifier
from tlab.models.precision import Precision
from tlab.runs.directory import RunDirectory


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds.

    Attributes:
        module: The network with its weights, in evaluation mode.
        classes: Names of the K classes, in the order of the logits.
        config: The run's configuration, as composed.
        precision: The precision that the run trained in.
        image_size: Side in pixels of the images that the network expects.
        resize: `crop` or `pad`.
        crop_fraction: Share of the shorter side that `crop` keeps.
        checkpoint: The file.
    """

    module: ImageClassifier
    classes: tuple[str, ...]
    config: DictConfig
    precision: Precision
    image_size: int
    resize: str
    crop_fraction: float
    checkpoint: Path


def build_head(cfg: DictConfig, features: int, num_classes: int) -> Head:
    """Return the head of a run's configuration, its last layer at zero (`head.reuse` is for `build_net`)."""
    options = {key: value for key, value in cfg.head.items() if key != "reuse"}
    return instantiate(options, _convert_="all")(features, num_classes)


def load_trained(path: Path) -> Trained:
    """Read a run directory's best checkpoint, or a checkpoint.

    Raises:
        UserError: There is none, or it is not one of tlab's.
    """
    file = RunDirectory(path).best if path.is_dir() else path
    if not file.exists():
        raise UserError(
            f"run={path} has no checkpoint at {file}; give the directory of a finished run, or a .ckpt file"
        )
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        about: dict[str, Any] = checkpoint["tlab"]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"run={path}: {file} is not a checkpoint of tlab; give one that tlab.train wrote"
        ) from error
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(f"run={path}: {file} is damaged or no checkpoint; give another one of the run") from error
    config = OmegaConf.create(about["config"])
    backbone = instantiate(config.backbone, weights=None, image_size=about["image_size"], _convert_="all")
    head = build_head(config, backbone.feature_dim, len(about["classes"]))
    net = Classifier(backbone, head, about["mean"], about["std"])
    module = ImageClassifier(
        net, tuple(about["classes"]), lambda groups: torch.optim.SGD(groups, lr=0.0), channels_last=True
    )
    module.load_state_dict(checkpoint["state_dict"])
    return Trained(
        module=module.eval(),
        classes=tuple(about["classes"]),
        config=config,
        precision=about["precision"],
        image_size=about["image_size"],
        resize=about["resize"],
        crop_fraction=about["crop_fraction"],
        checkpoint=file,
    )
