"""A trained run as a model that others can run: `python -m tlab.export run=RUN format=onnx output=FILE`."""

import glob
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from tlab.command import quiet, run_command
from tlab.config.overrides import shell_argument
from tlab.config.schema import ExportConfig
from tlab.config.validation import check_output, check_values
from tlab.core.errors import UserError
from tlab.core.text import as_text, short_path

if TYPE_CHECKING:  # torch is imported when the work begins, not for --help
    from tlab.exporting.self_check import Agreement

log = logging.getLogger(__name__)

LEFT_OVER = 3600  # age in seconds of a file without its name yet, whose export was killed


def export(cfg: DictConfig) -> "Agreement":
    """Write a run as a model from raw photographs to probabilities, and its card; return how well it agrees.

    Nothing has the name of the output before the model has been compared with the checkpoint.

    Args:
        cfg: Configuration composed from conf/export.yaml.

    Raises:
        UserError: There is no such run, or it cannot be exported.
        RunFailed: The exported model does not say what the checkpoint says.
    """
    check_values(cfg, ExportConfig)
    suffix = Path(cfg.output or "").suffix.lower()
    format_ = cfg.format or ("torch_export" if suffix == ".pt2" else "onnx")
    example = "model.onnx" if format_ == "onnx" else "model.pt2"
    output = Path(cfg.output or example)
    check_output(str(output), example, "model")
    quiet()

    from tlab.core.files import check_writable
    from tlab.core.hardware import stay_within_cores
    from tlab.exporting.card import card
    from tlab.exporting.figures import figures
    from tlab.exporting.graph import check_packages, export_graph
    from tlab.exporting.self_check import check, validation_images
    from tlab.runs.directory import RunDirectory
    from tlab.runs.environment import versions
    from tlab.runs.load import load_trained
    from tlab.runs.loggers import short_name
    from tlab.runs.trained_model import TrainedModel

    stay_within_cores()
    if format_ == "onnx":
        check_packages()
    _check_card(output, example)
    trained = load_trained(Path(cfg.run), trust=bool(cfg.get("trust")))
    check_writable(output.parent, "give output=FILE in another folder")
    lone = RunDirectory(trained.checkpoint)  # which holds nothing
    run = RunDirectory.of_checkpoint(trained.checkpoint, trained.classes) or lone
    known = figures(run, trained.checkpoint, trained.classes)
    print(f"checkpoint: {short_path(trained.checkpoint)}")
    model = TrainedModel(trained, "cpu", "32-true")
    about = {
        "class_names": list(trained.classes),
        "image_size": trained.image_size,
        "temperature": model.temperature,
        "tlab": versions()["tlab"],
        "run": short_name(run.path.resolve()),
    }
    exported = export_graph(trained, model.temperature, format_, about)
    agreement = check(model, exported.run, validation_images(run))
    text = card(trained, run, known, output, format_, model.temperature, agreement)
    _write(output, exported.content, text)
    print(f"check:      {agreement}")
    if not agreement.is_close:
        log.warning("The exported model does not always say what the checkpoint says; compare them on your images")
    if run.record and not known:
        measure = f"python -m tlab.evaluate {shell_argument('run', trained.checkpoint)}"
        log.warning("The card does not say how good the model is; %s measures it, then export it again", measure)
    print(f"model:      {short_path(output)}, {len(exported.content) / 1e6:.1f} MB")
    print(f"card:       {short_path(_beside(output))}")
    return agreement


def _beside(output: Path) -> Path:
    """Return the card's file."""
    return output.with_name(f"{output.name}.md")


def _check_card(output: Path, example: str) -> None:
    """Raise a `UserError` where the card's name is another thing's, such as that of README.md."""
    from tlab.exporting.card import is_card

    beside = _beside(output)
    if beside.exists() and not (beside.is_file() and is_card(beside.read_text("utf-8", "replace"), output)):
        better = output.with_name(f"{output.name.removesuffix(output.suffix)}_exported{Path(example).suffix}")
        raise UserError(
            f"the card of output={as_text(str(output))} is {as_text(beside.name)}, and what is there is none; "
            f"move it away, or give {shell_argument('output', better)}"
        )


def _write(output: Path, content: bytes, card: str) -> None:
    """Write the model, which gets its name after its card has; remove what killed commands left."""
    from tlab.core.files import atomic_path, write_text

    beside = _beside(output)
    for file in (output, beside):
        for left_over in file.parent.glob(f".{glob.escape(file.name)}.{'[0-9a-f]' * 8}"):
            with suppress(FileNotFoundError):  # another export may be writing it
                if time.time() - left_over.stat().st_mtime > LEFT_OVER:
                    left_over.unlink()
    with atomic_path(output) as model:
        model.write_bytes(content)
        write_text(beside, card)


def run(cfg: DictConfig) -> None:
    """Export the run."""
    export(cfg)


def main() -> None:
    """Entry point of `python -m tlab.export`."""
    run_command(run, "export")


if __name__ == "__main__":
    main()
