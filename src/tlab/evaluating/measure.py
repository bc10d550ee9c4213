"""Measures a trained run on a split of its own data, or of other folders."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tlab.config.overrides import exclude_argument, shell_argument
from tlab.config.schema import EvaluateConfig
from tlab.config.validation import check_values
from tlab.core.errors import NotFinite, UserError
from tlab.core.text import noun, short_path
from tlab.evaluating.evaluation import Evaluation
from tlab.predictions.rows import NO_ANSWER, OTHER_PRECISION

if TYPE_CHECKING:  # torch is imported when the work begins, not for --help
    from tlab.data.datamodule import ImageDataModule
    from tlab.data.sources.folder import ImageIndex
    from tlab.runs.load import Trained

log = logging.getLogger(__name__)

TABLE_KEYS = ("labels", "images", "image_column", "label_column", "extension")
SPLITS = ("train", "val", "test", "all")
TRAINED = ("val", "all")  # splits of which a refit has trained on more than train


def measure(cfg: DictConfig) -> Evaluation:
    """Measure a run on a split; print `N images`, and the checkpoint that is measured.

    Besides them `<split>/unknown`, the share of images that are not like those of training, where the checkpoint
    can tell.

    A class without an image has no accuracy. `f1` is the mean over the classes found among labels or predictions.

    Args:
        cfg: Configuration composed from conf/evaluate.yaml.

    Raises:
        UserError: The run, the data or the split is missing, or the data have other classes.
    """
    import lightning.pytorch as L

    from tlab.assembly.skipped_images import SkippedImages
    from tlab.core.hardware import stay_within_cores
    from tlab.core.machine_failures import naming_batch_size
    from tlab.finetuning.temperature import LogitCollector
    from tlab.finetuning.unknown_images import UnknownImages
    from tlab.models.autotune.precision import find_accelerator
    from tlab.models.calibration.measures import calibration_measures, measures
    from tlab.runs.load import load_trained

    check_values(cfg, EvaluateConfig)
    stay_within_cores()
    trained = load_trained(Path(cfg.run), trust=bool(cfg.get("trust")), with_loss=True)
    config, (data, named) = trained.config, _opened(cfg, trained)
    unread = [data.index.relative(file.path) for file in data.unreadable]
    if not any(data.index.splits.values()):
        raise UserError(
            f"{data.index.root} has no image to measure, {len(unread)} cannot be read; give another folder"
        )
    ((split, samples),) = data.index.splits.items()
    shown = f"test/{named}" if named else split
    print(f"{len(samples)} {noun(len(samples), 'image')} ({shown} of {data.index.root})")
    print(f"checkpoint: {short_path(trained.checkpoint)}")
    remarks: list[str] = []
    in_own_root, choices = _in_own_root(cfg, config), _choices(cfg, config)
    if trained.refitted and split in TRAINED and in_own_root:
        best = shell_argument("run", trained.checkpoint.with_name("best.ckpt"))
        name = trained.checkpoint.name
        remarks.append(f"{name} was trained on val too, so {split} says nothing of new images; {best} was not")
        log.warning(remarks[0])
    if unread:
        print(f"{len(unread)} unreadable: {', '.join(unread)}")
    unknown = UnknownImages(trained.uncertainty) if trained.uncertainty is not None else None
    trainer = L.Trainer(
        callbacks=[
            collector := LogitCollector(),
            SkippedImages(data=data),
            *([] if unknown is None else [unknown]),
        ],
        accelerator=find_accelerator(cfg.accelerator, "accelerator"),
        devices=1,
        precision=cfg.precision or trained.precision,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    with naming_batch_size(config.data.batch_size), _no_answer_told(cfg):
        metrics = dict(trainer.test(trained.module, data.loader(split), verbose=False)[0])
    measured = data.readable(split)
    present = {trained.classes[sample.label] for sample in samples}
    absent = [name for name in trained.classes if name not in present]
    unmeasured = {f"test/acc_class/{name}" for name in absent}
    if unknown is not None:
        metrics["test/unknown"] = unknown.share
    temperature, (logits, labels) = trained.temperature, collector.logits.arrays()
    divisor = temperature.applied(cfg.get("calibrate"))
    found = measures(logits, labels, divisor)
    by_divisor = {divisor: found} | {
        other: calibration_measures(logits, labels, other) for other in {1.0, temperature.value} - {divisor}
    }
    return Evaluation(
        {name.replace("test/", f"{shown}/", 1): metrics[name] for name in metrics if name not in unmeasured},
        *(trained, shown, data.index.root, choices, in_own_root and not choices),
        *(measured, absent, divisor, found),
        {number: {name: each[name] for name in ("nll", "ece")} for number, each in by_divisor.items()},
        *(data, logits, remarks),
    )


def _opened(cfg: DictConfig, trained: "Trained") -> "tuple[ImageDataModule, str | None]":
    """Return the data of the split that is asked for, set up, and the name of the further test that it is, if any.

    Raises:
        UserError: As for `measure`.
    """
    from tlab.data.sources.evaluation_sources import evaluation_source, index_of_test, one_split
    from tlab.runs.load import blamed_on

    config = trained.config
    exclude = _patterns(cfg.data.get("exclude"))
    table = {name: cfg.data[name] for name in TABLE_KEYS if cfg.data.get(name) is not None}
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
        data = _built(trained)
        data.max_megapixels = cfg.data.get("max_megapixels") or data.max_megapixels
        if named:
            data.source = partial(index_of_test, data.source, named, tests[named], trained.classes)
        else:
            source = data.source
            if cfg.data.root is not None:
                source = evaluation_source(source, str(cfg.data.root), trained.classes, exclude, table)
            data.source = lambda: _known_classes(one_split(source(), cfg.split), trained.classes)
        data.setup()
    return data, named


def _patterns(exclude: Any) -> list[str]:
    return list(map(str, exclude)) if OmegaConf.is_list(exclude) else [str(exclude)] if exclude else []


def _in_own_root(cfg: DictConfig, config: DictConfig) -> bool:
    """Tell whether the images that are asked for are in the run's own folder, also where it is named once more."""
    own, root = config.data.get("root"), cfg.data.root
    return root is None or (own is not None and Path(root).resolve() == Path(own).resolve())


def _choices(cfg: DictConfig, config: DictConfig) -> dict[str, Any]:
    """Return what of `data.*` decides which images of a folder are measured, and is not as in the run."""
    asked = {name: cfg.data[name] for name in (*TABLE_KEYS, "max_megapixels") if cfg.data.get(name) is not None}
    own = config.data if _in_own_root(cfg, config) else {}
    found = {name: value for name, value in asked.items() if value != own.get(name)}
    exclude = _patterns(cfg.data.get("exclude"))
    if cfg.data.root is not None and sorted(exclude) != sorted(_patterns(own.get("exclude"))):
        found["exclude"] = exclude
    return found


def training_data(trained: "Trained") -> "ImageDataModule":
    """Return the images that a checkpoint was trained on, with a refit those of val too, set up as for evaluation.

    Args:
        trained: The run, which has been measured.

    Raises:
        UserError: They are not there any more, or none can be read.
    """
    from tlab.data.sources.evaluation_sources import one_split
    from tlab.runs.load import blamed_on

    with blamed_on(trained.checkpoint):
        data = _built(trained)
        source = data.source

        def trained_on() -> "ImageIndex":
            index = source().with_val_in_train() if trained.refitted else source()
            return _known_classes(one_split(index, "train"), trained.classes)

        data.source = trained_on
        data.setup()
    if "train" not in data.index.splits:
        raise UserError(f"none of the files below {data.index.root} can be read.")
    return data


def _built(trained: "Trained") -> "ImageDataModule":
    """Return the data module of a run, which decodes as the run did."""
    data = instantiate(trained.config.data.module, augment=None, mix=None)
    data.levels = trained.decode_options.levels
    return data


@contextmanager
def _no_answer_told(cfg: DictConfig) -> Iterator[None]:
    """Give a remedy for a loss that is no finite number where nothing is trained.

    Raises:
        UserError: The block has met such a loss.
    """
    try:
        yield
    except NotFinite as error:
        raise UserError(
            f"{shell_argument('run', cfg.run)}: of some image {NO_ANSWER}, so there is no loss; {OTHER_PRECISION}"
        ) from error


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
