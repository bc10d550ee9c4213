"""Metrics of a trained run: `python -m tlab.evaluate run=RUN_OR_CKPT [data.root=DIR] [split=test]`."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tlab.command import quiet, run_command
from tlab.config.overrides import exclude_argument, shell_argument
from tlab.config.schema import EvaluateConfig
from tlab.config.validation import check_output, check_values
from tlab.core.errors import UserError

if TYPE_CHECKING:  # torch is imported when the work begins, not for --help
    from tlab.data.sources.folder import ImageIndex

TABLE_KEYS = ("labels", "images", "image_column", "label_column", "extension")
FOLDER = {"_target_": "tlab.data.sources.folder.evaluation_index", "_partial_": True}


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Return `<split>/acc`, `<split>/loss` and the rest, as the run itself would measure them; print `N images`.

    A class without an image has no accuracy. `f1` is the mean over the classes found among labels or predictions.

    Args:
        cfg: Configuration composed from conf/evaluate.yaml.

    Raises:
        UserError: The run, the data or the split is missing, or the data have other classes.
    """
    import lightning.pytorch as L

    from tlab.core.hardware import stay_within_cores
    from tlab.core.machine_failures import naming_batch_size
    from tlab.models.autotune.precision import find_accelerator
    from tlab.runs.load import blamed_on, load_trained

    check_values(cfg, EvaluateConfig)
    quiet()
    stay_within_cores()
    trained = load_trained(Path(cfg.run), trust=bool(cfg.get("trust")), with_loss=True)
    config = trained.config
    exclude = cfg.data.get("exclude") or []
    exclude = list(map(str, exclude)) if OmegaConf.is_list(exclude) else [str(exclude)] if exclude else []
    table = {name: cfg.data[name] for name in TABLE_KEYS if cfg.data.get(name) is not None}
    if table and not config.data.source._target_.endswith("csv_index"):
        raise UserError(f"data.{next(iter(table))} is for a run with data=csv, which this is not; leave it out")
    if cfg.data.root is not None:
        with blamed_on(trained.checkpoint):
            _replace_data(config.data, str(cfg.data.root), exclude, trained.classes, table)
    elif exclude or table:
        raise UserError(
            f"data.{'exclude' if exclude else next(iter(table))} is for another folder; name it with data.root=DIR"
        )
    elif config.data.module.source._target_.endswith("folder_index"):
        config.data.module.source.nested = True  # the run was trained on these folders
    if config.data.get("unreadable") != "read":
        config.data.unreadable = "skip"  # they are named and counted
    config.data.batch_size = cfg.batch_size or config.data.batch_size
    config.data.num_workers = cfg.num_workers
    with blamed_on(trained.checkpoint):
        data = instantiate(config.data.module, augment=None, mix=None)
        data.levels = trained.decode_options.levels
        data.max_megapixels = cfg.data.get("max_megapixels") or data.max_megapixels
        source = data.source
        data.source = lambda: _known_classes(_measured(source(), cfg.split), trained.classes)
        data.setup()
    unread = [data.index.relative(file.path) for file in data.unreadable]
    if not any(data.index.splits.values()):
        raise UserError(
            f"{data.index.root} has no image to measure, {len(unread)} cannot be read; give another folder"
        )
    ((split, samples),) = data.index.splits.items()
    print(f"{len(samples)} images ({split} of {data.index.root})")
    if unread:
        print(f"{len(unread)} unreadable: {', '.join(unread)}")
    trainer = L.Trainer(
        accelerator=find_accelerator(cfg.accelerator, "accelerator"),
        devices=1,
        precision=cfg.precision or trained.precision,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    with naming_batch_size(config.data.batch_size):
        (metrics,) = trainer.test(trained.module, data.loader(split), verbose=False)
    present = {trained.classes[sample.label] for sample in samples}
    absent = {f"test/acc_class/{name}" for name in trained.classes if name not in present}
    return {name.replace("test/", f"{split}/", 1): metrics[name] for name in metrics if name not in absent}


def _replace_data(
    data: DictConfig, root: str, exclude: list[str], classes: tuple[str, ...], table: dict[str, str]
) -> None:
    """Replace the node `data` by what is below another root: a folder, or a CSV table where the run has one too.

    Args:
        data: The run's node `data`.
        root: Another root.
        exclude: Patterns of what to leave out there.
        classes: Classes of the run.
        table: Values of `TABLE_KEYS` that are other than the run's.
    """
    from tlab.data.sources.scan import check_root, read_folder
    from tlab.data.sources.split_folders import find_splits

    base = check_root(root)
    data.root, data.exclude, data.val_fraction = root, exclude, None
    if data.source._target_.endswith("csv_index"):
        data.update(table)
        if table or (base / data.labels).is_file():
            return
        layout = find_splits(read_folder(base), classes, any_split=True)
        if not layout.splits and not any(folder.name in classes for folder in layout.base.filled):
            raise UserError(
                f"data.root={root} has neither a table {data.labels}, as this run's own data have, nor a folder of "
                f"one of its classes; give a folder that has, or name the table with data.labels=FILE"
            )
    data.source = {**FOLDER, "root": root, "exclude": exclude, "classes": list(classes)}
    data.module.source = data.source


def _measured(index: "ImageIndex", split: str | None) -> "ImageIndex":
    """Return the index with the measured split alone: other files need be neither readable nor of known classes."""
    there = index.splits
    if split == "all":
        return dataclasses.replace(index, splits={"all": tuple(itertools.chain.from_iterable(there.values()))})
    if split is not None and [*there] == ["all"]:
        raise UserError(f"split={split}: {index.root} is not split; leave split out to measure all of it")
    if split is not None and split not in there:
        raise UserError(
            f"split={split}: of {index.root} there is {', '.join(there)} with labels; give one, or split=all"
        )
    split = split or next(name for name in ("test", "val", "train", "all") if name in there)
    return dataclasses.replace(index, splits={split: there[split]})


def _known_classes(index: "ImageIndex", classes: tuple[str, ...]) -> "ImageIndex":
    """Renumber the labels of `index` by the class names of the run, which has to know all of them."""
    labels = sorted({sample.label for samples in index.splits.values() for sample in samples})
    if unknown := [index.classes[label] for label in labels if index.classes[label] not in classes]:
        raise UserError(
            f"data.root: {', '.join(unknown[:6])} is no class of this run, which knows {', '.join(classes[:20])}; "
            f"rename or remove it, or leave it out with {shell_argument('data.root', index.root)} "
            f"{exclude_argument(unknown)}"
        )
    return index.with_classes(classes)


def run(cfg: DictConfig) -> None:
    """Evaluate, print, and write the metrics where they are wanted."""
    from rich.console import Console

    from tlab.core.files import check_writable, write_text
    from tlab.dashboards.summary_table import print_metrics

    if cfg.output is not None:
        check_output(cfg.output, "metrics.json", "JSON file")
        check_writable(Path(cfg.output).parent, "give output=FILE in another folder")
    metrics = evaluate(cfg)
    print_metrics(Console(), metrics)
    if cfg.output is not None:
        write_text(Path(cfg.output), json.dumps(metrics, indent=2) + "\n")


def main() -> None:
    """Entry point of `python -m tlab.evaluate`."""
    run_command(run, "evaluate")


if __name__ == "__main__":
    main()
