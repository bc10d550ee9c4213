"""Predictions of a trained run: `python -m tlab.predict run=RUN_OR_CKPT input=FILE_OR_DIR output=preds.csv`."""

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from tlab.command import quiet, run_command
from tlab.config.schema import PredictConfig
from tlab.config.validation import check_output, check_values
from tlab.core.text import as_text, few

log = logging.getLogger(__name__)

FEW = 10  # images, up to which the answers are printed too

if TYPE_CHECKING:  # torch is imported when the work begins, not for --help
    from tlab.runs.trained_model import Prediction


def predict(cfg: DictConfig) -> list[dict[str, Any]]:
    """Return a row per image: `path`, `prediction`, `probability`, and `p(<class>)` for each class.

    A file that cannot be decoded has a row too, with an empty prediction and the `reason`. One that is cut short is
    predicted from what can be read, if that is most of it.

    Args:
        cfg: Configuration composed from conf/predict.yaml.

    Raises:
        UserError: The run or the input is missing, or the input holds no image.
    """
    from tlab.core.hardware import stay_within_cores
    from tlab.core.machine_failures import naming_batch_size
    from tlab.data.decode_options import EXTRA_BYTES, MOSTLY_THERE, beyond_levels
    from tlab.data.sources.verify import by_reason, check_files, unreadable
    from tlab.runs.load import load_trained
    from tlab.runs.trained_model import TrainedModel, files_to_predict

    check_values(cfg, PredictConfig)
    quiet()
    stay_within_cores()
    source = Path(cfg.input)
    root = (source if source.is_dir() else source.parent).absolute()
    files = files_to_predict(source, "input=")
    trained = load_trained(Path(cfg.run), trust=bool(cfg.get("trust")))
    model = TrainedModel(trained, cfg.accelerator, cfg.precision, cfg.get("calibrate"))
    options = replace(model.trained.decode_options, truncated=True)
    if (limit := OmegaConf.select(cfg, "data.max_megapixels")) is not None:
        options = replace(options, max_megapixels=limit)
    checks = check_files(root, files, options.max_megapixels)
    unread = unreadable(checks, truncated=True)
    broken = {item.path for item in unread}
    if unread:
        names = by_reason(unread, lambda path: path.relative_to(root).as_posix(), most=10)
        log.warning("%d without a prediction: %s", len(unread), names)
    if cut := [path for path, check in checks.items() if check.reason == MOSTLY_THERE]:
        names = few(path.relative_to(root).as_posix() for path in cut)
        log.warning("%d predicted from the part of the image that is there: %s", len(cut), names)
    if extra := [path for path, check in checks.items() if check.damage == EXTRA_BYTES]:
        names = few(path.relative_to(root).as_posix() for path in extra)
        log.warning("%d with %s: %s", len(extra), EXTRA_BYTES, names)
    for remark in beyond_levels((check.samples for check in checks.values() if check.samples), options.levels):
        log.warning(remark)
    readable = [path for path in files if path not in broken]
    batch_size = cfg.batch_size or model.trained.config.data.batch_size
    rows: dict[Path, dict[str, Any]] = {path: {"path": str(path), "prediction": ""} for path in files}
    with naming_batch_size(batch_size):
        damaged = [str(path) for path, check in checks.items() if check.damage]
        predictions = model.predict_files(readable, options, batch_size, cfg.num_workers, damaged)
        for path, prediction in zip(readable, predictions, strict=True):
            rows[path] |= _row(prediction)
    for path, check in checks.items():
        if check.reason:
            rows[path]["reason"] = check.reason
    return list(rows.values())


def _row(prediction: "Prediction") -> dict[str, str]:
    shares = {f"p({name})": f"{p:.6f}" for name, p in prediction.probabilities.items()}
    return {"prediction": prediction.label, "probability": f"{prediction.probability:.6f}", **shares}


def run(cfg: DictConfig) -> None:
    """Predict, and write the table."""
    from tlab.core.files import check_writable, is_device_or_pipe, write_csv

    check_output(cfg.output, "preds.csv", "CSV table")
    streamed = is_device_or_pipe(Path(cfg.output))  # also /dev/stdout, which the table has for itself
    if not streamed:
        check_writable(Path(cfg.output).parent, "give output=FILE in another folder")
    rows = predict(cfg)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    columns.sort(key=lambda column: column == "reason")  # the last one
    write_csv(Path(cfg.output), columns, rows)
    unread = sum(row["prediction"] == "" for row in rows)
    told = f"{len(rows) - unread} predictions in {cfg.output}" + (f", {unread} unreadable" if unread else "")
    print(told, file=sys.stderr if streamed else sys.stdout)
    for row in rows if len(rows) <= FEW and not streamed else ():
        if row["prediction"]:
            print(f"{as_text(row['path'])}: {row['prediction']} ({float(row['probability']):.1%})")


def main() -> None:
    """Entry point of `python -m tlab.predict`."""
    run_command(run, "predict")


if __name__ == "__main__":
    main()
