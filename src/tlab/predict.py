"""Predictions of a trained run: `python -m tlab.predict run=RUN_OR_CKPT input=FILE_OR_DIR output=preds.csv`."""

import sys
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from tlab.command import quiet, run_command
from tlab.config.schema import PredictConfig
from tlab.config.validation import check_output, check_value, check_values
from tlab.core.errors import UserError
from tlab.core.text import as_text, noun

if TYPE_CHECKING:  # torch is imported when the work begins, not for --help
    from tlab.predictions.ensemble import Ensemble
    from tlab.predictions.rows import Layout, Row

FEW = 10  # images, up to which the answers are printed too
# Keys that change nothing in the rows, or of which another digest tells
NOT_IN_ROWS = ("run", "input", "output", "batch_size", "num_workers", "trust", "debug")


def predict(cfg: DictConfig) -> "list[Row]":
    """Return a row per image: `path`, `prediction`, `probability`, and `p(<class>)` for each class.

    After these `known`, where the checkpoint tells whether an image is like those of training, and `set`, the
    possible classes, where there is a coverage.

    A file that cannot be decoded has a row too, with an empty prediction and the `reason`. One that is cut short is
    predicted from what can be read, if that is most of it.

    Args:
        cfg: Configuration composed from conf/predict.yaml.

    Raises:
        UserError: The run or the input is missing, or the input holds no image.
    """
    from tlab.predictions.inputs import find_files
    from tlab.predictions.rows import rounded

    check_values(cfg, PredictConfig)
    files = find_files(cfg.input, cfg.get("data") or {})
    model = _model(cfg)

    from tlab.predictions.batches import predict_batches
    from tlab.predictions.file_counts import FileCounts

    counts = FileCounts(files, model.levels)
    batches = predict_batches(model, counts, cfg.batch_size or model.batch_size, cfg.num_workers)
    rows = [rounded(row) for batch in batches for row in batch]
    counts.log()
    return rows


def run(cfg: DictConfig) -> None:
    """Predict, and write the rows as they come, behind those that a command which was killed has left."""
    from tlab.predictions.inputs import find_files  # before torch is imported, which then takes the same memory
    from tlab.predictions.rows import CsvRows, JsonRows
    from tlab.predictions.submission import Sample
    from tlab.predictions.table import Table

    output, is_csv = _output(cfg)
    check_values(cfg, PredictConfig)
    data = cfg.get("data") or {}
    sample = Sample(Path(cfg.submission)) if cfg.get("submission") else None
    with Table(output) as table:
        files = find_files(cfg.input, data, for_ids=sample is not None)
        if sample is not None:
            files = sample.find_files(files, data)
        model = _model(cfg)
        layout: Layout = (CsvRows if is_csv else JsonRows)(model.classes, model.additions)
        if sample is not None:
            layout = sample.filled_by(model.classes)

        from tlab.predictions.batches import predict_batches
        from tlab.predictions.file_counts import FileCounts

        counts, batch_size = FileCounts(files, model.levels), cfg.batch_size or model.batch_size
        made_by = {"models": model.digest(), "images": files.digest(), "settings": _digest(cfg, layout)}
        few: list[Row] = []
        try:
            table.begin(layout, files, batch_size, made_by, counts.add_row)
            for rows in predict_batches(model, counts, batch_size, cfg.num_workers, table.start):
                table.write(rows)
                few += rows if len(files) <= FEW else []
            table.finish()
        except KeyboardInterrupt:
            if not table.is_streamed:
                print("tlab: stopped; the same command continues", file=sys.stderr)
            raise
        except BrokenPipeError:  # nobody reads it any more, as with `| head`
            return
    counts.log()
    is_part = sample is not None and table.start > 0  # a submission does not keep what is known
    number = len(files) - counts.unreadable
    told = f"{number} {noun(number, 'prediction')} in {output}"
    told += f", {counts.unreadable} unreadable" if counts.unreadable else ""
    if counts.unknown is not None and not is_part:
        column = "" if sample else "false in the column known: "
        told += f", {counts.unknown:.1%} unknown"
        told += f" ({column}{counts.unknown_files})" if counts.unknown else ""
    print(told, file=sys.stderr if table.is_streamed else sys.stdout)
    for row in few if not table.is_streamed else ():
        if row["prediction"]:
            print(f"{as_text(row['path'])}: {row['prediction']} ({row['probability']:.1%})")


def _model(cfg: DictConfig) -> "Ensemble":
    from tlab.core.hardware import stay_within_cores
    from tlab.predictions.ensemble import load_ensemble

    quiet()
    stay_within_cores()
    limit = OmegaConf.select(cfg, "data.max_megapixels")
    return load_ensemble(
        cfg.run,
        bool(cfg.get("trust")),
        cfg.accelerator,
        cfg.precision,
        max_megapixels=limit,
        flip=cfg.get("tta") == "flip",
        coverage=cfg.get("coverage"),
        calibrate=cfg.get("calibrate"),
    )


def _output(cfg: DictConfig) -> tuple[Path, bool]:
    """Return the file to write, and whether it is a CSV table, rather than JSON lines.

    Raises:
        UserError: It cannot be written, or is of another kind.
    """
    from tlab.core.files import check_writable, is_device_or_pipe

    sample, format_, output = cfg.get("submission"), cfg.get("format"), cfg.get("output")
    check_value("format", format_, PredictConfig)
    suffix = Path(output).suffix.lower() if output else ""
    is_csv = sample is not None or format_ == "csv" or (format_ is None and suffix not in (".jsonl", ".ndjson"))
    example = "preds.csv" if is_csv else "preds.ndjson" if suffix == ".ndjson" else "preds.jsonl"
    if sample:
        if cfg.get("coverage") is not None:
            raise UserError(
                f"coverage={cfg.coverage} is not for a submission, which has its sample's columns; leave it out"
            )
        if format_:
            raise UserError(
                f"format={format_} is not for a submission, which is written as its sample is; leave it out"
            )
        kind = Path(sample.removesuffix(".gz").removesuffix(".zip")).suffix.lower()
        example = "submission.csv" if suffix in ("", ".csv") else f"submission{kind}"
    path = Path(output or example)
    check_output(str(path), example, "CSV table" if is_csv else "file of JSON lines")
    if sample and Path(sample).exists() and path.exists() and path.samefile(sample):
        raise UserError(f"output={path} is the sample itself; give output=FILE with another name")
    if not is_device_or_pipe(path):
        check_writable(path.parent, "give output=FILE in another folder")
    return path, is_csv


def _digest(cfg: DictConfig, layout: "Layout") -> bytes:
    """Return a hash of what makes the rows what they are, besides images and models."""
    settings = {key: value for key, value in cfg.items() if key not in NOT_IN_ROWS}
    text = OmegaConf.to_yaml(OmegaConf.create(settings), resolve=True, sort_keys=True)
    return blake2b(f"{text}\0{layout.pattern}".encode("utf-8", "surrogatepass")).digest()


def main() -> None:
    """Entry point of `python -m tlab.predict`."""
    run_command(run, "predict")


if __name__ == "__main__":
    main()
