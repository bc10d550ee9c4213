"""A trained run as a model that others can run: `python -m tlab.export run=RUN format=onnx output=FILE`."""

import glob
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from tlab.command import quiet, run_command
from tlab.config.schema import ExportConfig
from tlab.config.validation import check_output, check_values
from tlab.core.text import as_text, short_path

if TYPE_CHECKING:  # torch is imported when the work begins, not for --help
    from tlab.exporting.self_check import Agreement

log = logging.getLogger(__name__)


def export(cfg: DictConfig) -> "Agreement":
    """Write a run as a model from raw photographs to probabilities, and its card; return how well it agrees.

    Nothing has the name of the output before the model has been compared with the checkpoint.

    Args:
        cfg: Configuration composed from conf/export.yaml.

    Raises:
        UserError: There is no such run, or it cannot be exported.
        RunFailed: The exported model does not say what the checkpoint says.
    """
    from tlab.core.files import check_writable

    check_values(cfg, ExportConfig)
    suffix = Path(cfg.output or "").suffix.lower()
    format_ = cfg.format or ("torch_export" if suffix == ".pt2" else "onnx")
    example = "model.onnx" if format_ == "onnx" else "model.pt2"
    output = Path(cfg.output or example)
    check_output(str(output), example, "model")
    check_writable(output.parent, "give output=FILE in another folder")
    quiet()

    from tlab.core.hardware import stay_within_cores
    from tlab.exporting.card import card
    from tlab.exporting.graph import check_packages, export_graph
    from tlab.exporting.self_check import check, validation_images
    from tlab.runs.directory import RunDirectory
    from tlab.runs.environment import versions
    from tlab.runs.load import load_trained
    from tlab.runs.trained_model import TrainedModel

    stay_within_cores()
    if format_ == "onnx":
        check_packages()
    trained = load_trained(Path(cfg.run), trust=bool(cfg.get("trust")))
    run = RunDirectory(trained.checkpoint.parent.parent)
    print(f"checkpoint: {short_path(trained.checkpoint)}")
    model = TrainedModel(trained, "cpu", "32-true")
    about = {
        "class_names": list(trained.classes),
        "image_size": trained.image_size,
        "temperature": model.temperature,
        "tlab": versions()["tlab"],
        "run": as_text((run.path if run.record else trained.checkpoint).resolve().name),
    }
    exported = export_graph(trained, model.temperature, format_, about)
    agreement = check(model, exported.run, validation_images(run))
    _write(output, exported.content, card(trained, run, output, format_, model.temperature, agreement))
    print(f"check:      {agreement}")
    if not agreement.is_close:
        log.warning("The exported model often says something else than the checkpoint; compare them on your images")
    print(f"model:      {short_path(output)}, {len(exported.content) / 1e6:.1f} MB")
    print(f"card:       {short_path(output)}.md")
    return agreement


def _write(output: Path, content: bytes, card: str) -> None:
    """Write the model and its card, which get their names together, and remove what a killed command has left."""
    from tlab.core.files import atomic_path

    beside = output.with_name(f"{output.name}.md")
    for file in (output, beside):
        for left_over in file.parent.glob(f".{glob.escape(file.name)}.{'[0-9a-f]' * 8}"):
            left_over.unlink(missing_ok=True)
    with atomic_path(beside) as text, atomic_path(output) as model:
        text.write_text(card, encoding="utf-8", errors="backslashreplace")
        model.write_bytes(content)


def run(cfg: DictConfig) -> None:
    """Export the run."""
    export(cfg)


def main() -> None:
    """Entry point of `python -m tlab.export`."""
    run_command(run, "export")


if __name__ == "__main__":
    main()
