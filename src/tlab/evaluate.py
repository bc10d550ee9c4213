"""Metrics of a trained run: `python -m tlab.evaluate run=RUN_OR_CKPT [data.root=DIR] [split=test]`."""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tlab.command import quiet, run_command
from tlab.config.overrides import exclude_argument, shell_argument
from tlab.config.schema import EvaluateConfig
from tlab.config.validation import check_output, check_values
from tlab.core.errors import NotFinite, UserError
from tlab.core.text import as_text, few, noun, short_path
from tlab.predictions.rows import NO_ANSWER, OTHER_PRECISION

if TYPE_CHECKING:  # torch is imported when the work begins, not for --help
    from tlab.data.sources.folder import ImageIndex
    from tlab.models.calibration.measures import Measures
    from tlab.runs.load import Trained

log = logging.getLogger(__name__)

TABLE_KEYS = ("labels", "images", "image_column", "label_column", "extension")
SPLITS = ("train", "val", "test", "all")
TRAINED = ("val", "all")  # splits of which a refit has trained on more than train


@dataclass(frozen=True)
class Evaluation:
    """What a trained run is worth on a split.

    Attributes:
        metrics: `<split>/acc`, `<split>/loss` and the rest, as the run itself would measure them.
        trained: The run.
        split: What was measured: `test`, or `test/NAME` of a further test.
        root: Folder of the images.
        images: Number of images.
        absent: Classes without an image.
        divisor: What logits were divided by.
        measures: See `models.calibration.measures`.
        by_divisor: `nll` and `ece` with logits as they are (1), and divided by the checkpoint's temperature.
    """

    metrics: dict[str, float]
    trained: "Trained"
    split: str
    root: Path
    images: int
    absent: list[str]
    divisor: float
    measures: "Measures"
    by_divisor: "dict[float, Measures]"

    def plain(self) -> dict[str, Any]:
        """Return the contents of `evaluation_<split>.json`."""
        value, lowers_nll = self.trained.temperature
        without, scaled = (_plain(self.by_divisor[divisor]) for divisor in (1.0, value))
        return {
            "split": self.split,
            "root": as_text(str(self.root)),
            "checkpoint": as_text(str(self.trained.checkpoint)),
            "images": self.images,
            "absent_classes": self.absent,
            **_plain(self.measures),
            "calibrated": self.divisor != 1,
            "temperature": {"value": value, "lowers_nll_of_val": lowers_nll, "without": without, "with": scaled},
            **self.metrics,
        }

    @property
    def of_temperature(self) -> str:
        """What the checkpoint's temperature changes, and whether it was applied, in a sentence."""
        value = self.trained.temperature.value
        if value == 1:
            return "temperature 1: probabilities are those of the network"
        parts = []
        for name, title in (("nll", "NLL"), ("ece", "ECE")):
            before, after = (self.by_divisor[divisor][name] for divisor in (1.0, value))
            if before is not None and after is not None:
                parts.append(f"{title} {before.value:.4f} without, {after.value:.4f} with it")
        told = f": {'; '.join(parts)}" if parts else ""
        applied = "not applied (calibrate=true applies it)" if self.divisor == 1 else "applied"
        return f"temperature {value:.3g}, {applied}{told}"


def _plain(measures: "Measures") -> dict[str, Any]:
    return {name: found and found._asdict() for name, found in measures.items()}


def _as_json(values: Mapping[str, Any]) -> str:
    """Return JSON in which what is no finite number is null."""

    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: finite(each) for key, each in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(values), indent=2, ensure_ascii=False) + "\n"


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Return `<split>/acc`, `<split>/loss` and the rest, see `measure`."""
    return measure(cfg).metrics


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
    from tlab.data.sources.evaluation_sources import evaluation_source, index_of_test, one_split
    from tlab.finetuning.temperature import LogitCollector
    from tlab.finetuning.unknown_images import UnknownImages
    from tlab.models.autotune.precision import find_accelerator
    from tlab.models.calibration.measures import calibration_measures, measures
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
    print(f"{len(samples)} {noun(len(samples), 'image')} ({shown} of {data.index.root})")
    print(f"checkpoint: {short_path(trained.checkpoint)}")
    if trained.refitted and split in TRAINED and cfg.data.root is None:
        log.warning(
            "%s was trained on val too, so %s says nothing of new images; %s was not",
            *(trained.checkpoint.name, split, shell_argument("run", trained.checkpoint.with_name("best.ckpt"))),
        )
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
        *(trained, shown, data.index.root, measured, absent, divisor, found),
        {number: {name: each[name] for name in ("nll", "ece")} for number, each in by_divisor.items()},
    )


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


def run(cfg: DictConfig) -> None:
    """Evaluate, print, and write the measures beside the run, or where they are wanted."""
    from rich.console import Console

    from tlab.core.files import check_writable, is_device_or_pipe, write_text
    from tlab.dashboards.summary_table import print_measures, print_metrics, print_paths

    output = None if cfg.output is None else Path(cfg.output)
    if output is not None:
        check_output(cfg.output, "metrics.json", "JSON file")
        check_writable(output.parent, "give output=FILE in another folder")
    found = measure(cfg)
    print_metrics(Console(), found.metrics)
    print_measures(Console(), found.measures)
    if found.absent:
        print(f"no image of {few(map(as_text, found.absent), 10)}")
    print(found.of_temperature)
    folder = Path(cfg.run) if Path(cfg.run).is_dir() else Path(cfg.run).parent
    folder = folder if output is None or is_device_or_pipe(output) else output.parent
    own = found.trained.config.data.get("root")
    is_own = cfg.data.root is None or (own is not None and Path(cfg.data.root).resolve() == Path(own).resolve())
    of_other = "" if is_own else f"_of_{Path(cfg.data.root).resolve().name}"
    file = folder / f"evaluation_{found.split.replace('/', '_')}{of_other}.json"
    if output is not None and output.resolve() != file.resolve():
        write_text(output, _as_json(found.metrics))
    try:
        write_text(file, _as_json(found.plain()))
    except OSError as error:
        way_out = f"{shell_argument('output', 'metrics.json')} puts them into this folder"
        log.warning(
            "the intervals are not kept, since %s cannot be written (%s); %s", file, error.strerror, way_out
        )
    else:
        print_paths(Console(), {"with intervals": file})


def main() -> None:
    """Entry point of `python -m tlab.evaluate`."""
    run_command(run, "evaluate")


if __name__ == "__main__":
    main()
