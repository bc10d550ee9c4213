"""Predictions of a trained run: `python -m tlab.predict run=RUN_OR_CKPT input=FILE_OR_DIR output=preds.csv`."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tlab.command import quiet, run_command
from tlab.config.overrides import shell_argument
from tlab.config.schema import PredictConfig
from tlab.config.validation import check_values
from tlab.core.errors import UserError

log = logging.getLogger(__name__)


def predict(cfg: DictConfig) -> list[dict[str, Any]]:
    """Return a row per image: `path`, `prediction`, `probability`, and `p(<class>)` for each class.

    A file that cannot be decoded has a row too, with an empty prediction.

    Args:
        cfg: Configuration composed from conf/predict.yaml.

    Raises:
        UserError: The run or the input is missing, or the input holds no image.
    """
    import torch

    from tlab.data.augment.evaluation import evaluation_transform
    from tlab.data.image_batches import ImageBatches
    from tlab.data.loader import make_loader
    from tlab.data.sampler import SequentialSampler
    from tlab.data.sources.folder import Sample
    from tlab.data.sources.scan import image_files
    from tlab.data.sources.verify import check_files, unreadable
    from tlab.models.autotune.precision import autocast, find_accelerator
    from tlab.runs.load import load_trained

    check_values(cfg, PredictConfig)
    quiet()
    source, remedy = Path(cfg.input), "give an image file, or a folder of images"
    if not (source.is_file() or source.is_dir()):
        raise UserError(f"input={source} does not exist; {remedy}")
    root = source if source.is_dir() else source.parent
    files = [source.absolute() / name for name in image_files(source)] if root == source else [source.absolute()]
    if not files:
        raise UserError(f"input={source} holds no image file; {remedy}")
    trained = load_trained(Path(cfg.run), trust=bool(cfg.get("trust")))
    broken = {item.path: item.reason for item in unreadable(check_files(root, files))}
    for path, reason in broken.items():
        log.warning("%s has no prediction: %s", path, reason)
    readable = [path for path in files if path not in broken]
    images = ImageBatches(
        [Sample(str(path), 0) for path in readable],
        finish=evaluation_transform(trained.image_size, trained.resize, trained.crop_fraction),
        image_size=trained.image_size,
    )
    keys = SequentialSampler(len(images))
    loader = make_loader(images, keys, cfg.batch_size or trained.config.data.batch_size, cfg.num_workers)
    device = torch.device(find_accelerator(cfg.accelerator))
    module = trained.module.to(device)
    rows: dict[Path, dict[str, Any]] = {path: {"path": str(path), "prediction": ""} for path in files}
    with torch.inference_mode(), autocast(device, cfg.precision or trained.precision):
        for batch in loader:
            for index, p in zip(batch.index, module(batch.image.to(device)).softmax(dim=1).cpu(), strict=True):
                rows[readable[index]] |= _row(p, trained.classes)
    return list(rows.values())


def _row(probabilities: Any, classes: tuple[str, ...]) -> dict[str, Any]:
    best = int(probabilities.argmax())
    shares = {f"p({name})": f"{float(p):.6f}" for name, p in zip(classes, probabilities, strict=True)}
    return {"prediction": classes[best], "probability": f"{float(probabilities[best]):.6f}", **shares}


def run(cfg: DictConfig) -> None:
    """Predict, and write the table."""
    from tlab.core.files import write_csv

    if Path(cfg.output).is_dir():
        example = shell_argument("output", Path(cfg.output) / "preds.csv")
        raise UserError(f"output={cfg.output} is a folder; give the name of a file, such as {example}")
    rows = predict(cfg)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    write_csv(Path(cfg.output), columns, rows)
    unread = sum(row["prediction"] == "" for row in rows)
    print(f"{len(rows) - unread} predictions in {cfg.output}" + (f", {unread} unreadable" if unread else ""))


def main() -> None:
    """Entry point of `python -m tlab.predict`."""
    run_command(run, "predict")


if __name__ == "__main__":
    main()
