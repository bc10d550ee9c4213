"""Metrics of a trained run: `python -m tlab.evaluate run=RUN_OR_CKPT [data.root=DIR] [split=test]`."""

import json
from functools import partial
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
    from tlab.runs.load import Trained

TABLE_KEYS = ("labels", "images", "image_column", "label_column", "extension")
SPLITS = ("train", "val", "test", "all")


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Return `<split>/acc`, `<split>/loss` and the rest, as the run itself would measure them; print `N images`.

    Besides them `<split>/unknown`, the share of images that are not like those of training, where the checkpoint
    can tell.

    A class without an image has no accuracy. `f1` is the mean over the classes found among labels or predictions.

    Args:
        cfg: Configuration composed from conf/evaluate.yaml.

    Raises:
        UserError: The run, the data or the split is missing, or the data have other classes.
    """
    import lightning.pytorch as L

    from tlab.core.hardware import stay_within_cores
    from tlab.core.machine_failures import naming_batch_size
    from tlab.data.sources.evaluation_sources import evaluation_source, index_of_test, one_split
    from tlab.models.autotune.precision import find_accelerator
    from tlab.models.uncertainty.unknown_images import UnknownImages
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
    tests = _tests_of(trained, Path(cfg.run))
    if cfg.split not in (None, *SPLITS, *tests):
        known = ", ".join((*SPLITS, *tests))
        raise UserError(f"split={cfg.split} is not one of {known} (names come from the run's data.tests)")
    named = cfg.split if cfg.split in tests else None
    if named and cfg.data.root is not None:
        raise UserError(f"split={named} names a folder of its own; leave out data.root, or split")
    if cfg.data.root is None and (exclude or table):
        raise UserError(
            f"data.{'exclude' if exclude else next(iter(table))} is for another folder; name it with data.root=DIR"
        )
    if config.data.module.source._target_.endswith("folder_index"):
        config.data.module.source.nested = True  # the run was trained on these folders
    if config.data.get("unreadable") != "read":
        config.data.unreadable = "skip"  # they are named and counted
    config.data.batch_size = cfg.batch_size or config.data.batch_size
    config.data.num_workers = cfg.num_workers
    with blamed_on(trained.checkpoint):
        data = instantiate(config.data.module, augment=None, mix=None)
        data.levels = trained.decode_options.levels
        data.max_megapixels = cfg.data.get("max_megapixels") or data.max_megapixels
        if named:
            data.source = partial(index_of_test, data.source, named, tests[named], trained.classes)
        else:
            source = data.source
            if cfg.data.root is not None:
                source = evaluation_source(source, str(cfg.data.root), trained.classes, exclude, table)
            data.source = lambda: _known_classes(one_split(source(), cfg.split), trained.classes)
        data.setup()
    unread = [data.index.relative(file.path) for file in data.unreadable]
    if not any(data.index.splits.values()):
        raise UserError(
            f"{data.index.root} has no image to measure, {len(unread)} cannot be read; give another folder"
        )
    ((split, samples),) = data.index.splits.items()
    shown = f"test/{named}" if named else split
    print(f"{len(samples)} images ({shown} of {data.index.root})")
    if unread:
        print(f"{len(unread)} unreadable: {', '.join(unread)}")
    unknown = UnknownImages(trained.uncertainty) if trained.uncertainty is not None else None
    trainer = L.Trainer(
        callbacks=[] if unknown is None else [unknown],
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
    metrics = {**metrics, **({} if unknown is None else {"test/unknown": unknown.share})}
    return {name.replace("test/", f"{shown}/", 1): metrics[name] for name in metrics if name not in absent}


def _tests_of(trained: "Trained", run: Path) -> dict[str, str]:
    """Return name -> folder of the further tests that a checkpoint, or the record of its run, knows."""
    from tlab.runs.directory import RunDirectory

    kept = trained.config.data.get("tests") or {}
    added = RunDirectory(run).record.get("tests", {}) if run.is_dir() else {}
    return {
        **{name: str(root) for name, root in kept.items()},
        **{name: each["root"] for name, each in added.items()},
    }


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
