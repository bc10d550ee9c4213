"""The description of a run in run.json, in its checkpoints and in the HParams tab."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from tlab.config.diff import flat
from tlab.config.overrides import SECRETS, key_and_value
from tlab.config.provenance import with_decisions
from tlab.core.errors import UserError
from tlab.core.text import as_text
from tlab.runs.manifest import read_manifest

if TYPE_CHECKING:  # torch is imported when a run begins, not for --help
    import lightning.pytorch as L

    from tlab.data.datamodule import ImageDataModule
    from tlab.models.classifier import Classifier
    from tlab.runs.directory import RunDirectory

log = logging.getLogger(__name__)

SETTINGS = (
    *("backbone.name", "backbone.upto", "data.batch_size", "data.image_size", "finetune.backbone_lr_scale"),
    *("finetune.head_epochs", "loss.label_smoothing", "optimizer.lr", "optimizer.weight_decay"),
    *("seed", "trainer.max_epochs"),
)


def swept_keys(run_dir: Path, overrides: list[str]) -> set[str]:
    """Return the keys of the overrides that distinguish a run in its sweep or search; of a single run, all keys.

    A sweep lists what its runs share in `sweep.json`, a search what it varies in `study.json`, two folders up.
    """
    given = dict(map(key_and_value, overrides))
    directory = run_dir.absolute().parent.parent
    try:
        if (study := directory / "study.json").exists():
            searched = json.loads(study.read_text(encoding="utf-8"))["searched"]
            return {"seed", *(key.lstrip("+~") for key in searched)} & given.keys()
        if (manifest := read_manifest(directory)) is not None:
            return {key for key, value in given.items() if manifest.constants.get(key) != value and key != "sweep"}
    except (UserError, ValueError, KeyError, TypeError) as error:  # no reason to fail a run that is over
        log.warning("%s does not say what its runs share (%s)", directory, error)
    return set(given)


def settings(cfg: DictConfig, overrides: list[str], choices: Mapping[str, str | None]) -> dict[str, Any]:
    """Return what the HParams tab shows: the usual keys, the config groups in short, and whatever was overridden.

    Args:
        cfg: The run's configuration.
        overrides: Overrides from which it was composed.
        choices: Config group -> choice, where known; another group is shown by its content.
    """
    shown = {key: OmegaConf.select(cfg, key) for key in SETTINGS}
    held = {group: cfg[group]._target_.rsplit(".", 1)[-1] for group in ("head", "loss", "optimizer", "scheduler")}
    held["aug"] = " ".join(name for name, transform in cfg.aug.transforms.items() if transform is not None)
    held["finetune"] = " ".join(cfg.finetune.phases)
    shown |= {group: choices.get(group, text) for group, text in held.items()}
    for override in overrides:
        key, value = key_and_value(override)
        may_be_secret = key.startswith(SECRETS) and "${" in value
        chosen = None if may_be_secret else OmegaConf.select(cfg, key)
        chosen = value if chosen is None or OmegaConf.is_config(chosen) else chosen
        shown[key] = as_text(chosen) if isinstance(chosen, str) else chosen
    return shown


def record_decisions(
    run: "RunDirectory", cfg: DictConfig, config: dict[str, Any], overrides: list[str]
) -> dict[str, Any]:
    """Return the configuration with what the run has decided itself; a change is written to its directory.

    Args:
        run: The run's directory.
        cfg: Configuration with the decisions.
        config: The configuration as the run's record keeps it.
        overrides: Overrides from which it was composed.
    """
    before, config = config, with_decisions(config, cfg)
    if config != before:
        decided = [key for key, value in flat(config).items() if value != flat(before).get(key)]
        run.update(config=config, decided=decided)
        run.write_config(OmegaConf.to_yaml(cfg), overrides)
    return config


def preprocessing(cfg: DictConfig, data: "ImageDataModule", net: "Classifier", precision: str) -> dict[str, Any]:
    """Return what a checkpoint says about the images that its network expects."""
    return {
        "precision": precision,
        "image_size": cfg.data.image_size,
        "resize": cfg.data.resize,
        "crop_fraction": cfg.data.crop_fraction,
        "mean": net.normalize.mean.flatten().tolist(),
        "std": net.normalize.std.flatten().tolist(),
        "levels": data.decode_options.levels.plain(),
        "tokens": net.backbone.tokens,
        "prefix_tokens": net.backbone.prefix_tokens,
    }


def describe(
    data: "ImageDataModule",
    content: dict[str, str],
    net: "Classifier",
    trainer: "L.Trainer",
    compiled: list[str],
    begun: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what run.json says about a run besides its configuration.

    Args:
        data: The run's data module.
        content: Fingerprints of the run's images, `content` and `sizes`.
        net: The run's network.
        trainer: The run's trainer.
        compiled: Names of the phases whose trainable part is compiled.
        begun: Record of a resumed run, which says with which weights it began; empty for a new run.
    """
    from tlab.runs.environment import versions

    return {
        "versions": versions(),
        "device": str(trainer.strategy.root_device),
        "processes": trainer.world_size,
        "precision": trainer.precision,
        "tokens": net.backbone.tokens,
        "compiled": compiled,
        "levels": data.decode_options.levels.plain(),
        "class_names": list(data.classes),
        "data": {
            "root": str(data.index.root),
            "fingerprint": data.index.fingerprint(),
            **content,
            "images": {split: len(samples) for split, samples in data.index.splits.items()},
            "unreadable": len(data.unreadable),
            "passed_over": data.passed_over,
            "remarks": data.issues,
        },
        "reused_rows": net.head.reused,
        "parameters": {
            name: sum(parameter.numel() for parameter in net.group(name).parameters()) for name in net.group_names
        },
        "weights": begun.get("weights", net.backbone.pretraining.description),
        "weights_digest": begun.get("weights_digest", net.backbone.pretraining.digest),
    }
