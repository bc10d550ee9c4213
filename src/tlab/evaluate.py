"""Metrics of a trained run: `python -m tlab.evaluate run=RUN_OR_CKPT [data.root=DIR] [split=test]`."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig

from tlab.checks import READ_BOUNDS, READ_CHOICES, check_values
from tlab.command import quiet, run_command
from tlab.errors import UserError

if TYPE_CHECKING:  # torch is imported when the work begins, not for --help
    from tlab.data.index import ImageIndex

FOLDER = {"_target_": "tlab.data.index.folder_index", "_partial_": True}
SPLITS = ("train", "val", "test", "all")


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Return `<split>/acc`, `<split>/loss` and the rest, as the run itself would measure them.

    Args:
        cfg: As composed from conf/evaluate.yaml.

    Raises:
        UserError: The run, the data or the split is not there, or the data have other classes.
    """
    import lightning.pytorch as L

    from tlab.models.precision import find_accelerator
    from tlab.trained import load_trained

    check_values(cfg, {**READ_CHOICES, "split": (None, *SPLITS)}, READ_BOUNDS)
    quiet()
    trained = load_trained(Path(cfg.run))
    config = trained.config
    if cfg.data.root is not None:
        config.data.root = cfg.data.root
        if not config.data.source._target_.endswith("csv_index"):  # whatever the run had, this is a folder
            config.data.source = {**FOLDER, "root": cfg.data.root, "exclude": list(config.data.exclude)}
            config.data.module.source = config.data.source
    config.data.batch_size = cfg.batch_size or config.data.batch_size
    config.data.num_workers = cfg.num_workers
    data = instantiate(config.data.module, augment=None, mix=None)
    source = data.source
    data.source = lambda: _known_classes(source(), trained.classes)
    data.setup()
    split = cfg.split or ("test" if "test" in data.index.splits else "val")
    if split == "all":
        samples = tuple(sample for part in data.index.splits.values() for sample in part)
        data.index = dataclasses.replace(data.index, splits={**data.index.splits, "all": samples})
    trainer = L.Trainer(
        accelerator=find_accelerator(cfg.accelerator),
        devices=1,
        precision=cfg.precision or trained.precision,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    (metrics,) = trainer.test(trained.module, data.loader(split), verbose=False)
    return {name.replace("test/", f"{split}/", 1): value for name, value in metrics.items()}


def _known_classes(index: "ImageIndex", classes: tuple[str, ...]) -> "ImageIndex":
    """Renumber the labels of `index` by the class names of the run.

    Raises:
        UserError: A class is not one of the run's.
    """
    if unknown := [name for name in index.classes if name not in classes]:
        raise UserError(
            f"data.root: {', '.join(unknown[:6])} is no class of this run, which knows {', '.join(classes[:20])}; "
            f"rename or remove the folder"
        )
    number = [classes.index(name) for name in index.classes]
    splits = {
        split: tuple(sample._replace(label=number[sample.label]) for sample in samples)
        for split, samples in index.splits.items()
    }
    return dataclasses.replace(index, classes=classes, splits=splits)


def run(cfg: DictConfig) -> None:
    """Evaluate, print, and write the metrics where they are wanted."""
    from rich.console import Console

    from tlab.cache import write_text
    from tlab.dashboards.closing_table import print_metrics

    metrics = evaluate(cfg)
    print_metrics(Console(), metrics)
    if cfg.output is not None:
        write_text(Path(cfg.output), json.dumps(metrics, indent=2) + "\n")


def main() -> None:
    """Entry point of `python -m tlab.evaluate`."""
    run_command(run, "evaluate")


if __name__ == "__main__":
    main()
