"""Metrics of a trained run: `python -m tlab.evaluate run=RUN_OR_CKPT [data.root=DIR] [split=S] [report=true]`."""

import logging
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from tlab.command import quiet, run_command
from tlab.config.overrides import shell_argument
from tlab.config.validation import check_output
from tlab.core.text import as_text, few
from tlab.evaluating.evaluation import as_json
from tlab.evaluating.measure import measure

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Return `<split>/acc`, `<split>/loss` and the rest, see `measure`."""
    quiet()
    return measure(cfg).metrics


def run(cfg: DictConfig) -> None:
    """Evaluate, print, and write the measures, and the report if asked for, beside the run or elsewhere."""
    from rich.console import Console

    from tlab.core.files import check_writable, is_device_or_pipe, write_text
    from tlab.dashboards.summary_table import print_measures, print_metrics, print_paths

    output, elsewhere = None if cfg.output is None else Path(cfg.output), "give output=FILE in another folder"
    if output is not None:
        check_output(cfg.output, "metrics.json", "JSON file")
        check_writable(output.parent, elsewhere)
    folder = Path(cfg.run) if Path(cfg.run).is_dir() else Path(cfg.run).parent
    folder = folder if output is None or is_device_or_pipe(output) else output.parent
    if cfg.report and folder.exists():  # a run that is not there is a mistake of its own
        check_writable(folder, elsewhere)
    quiet()
    found = measure(cfg)
    print_metrics(Console(), found.metrics)
    print_measures(Console(), found.measures)
    if found.absent:
        print(f"no image of {few(map(as_text, found.absent), 10)}")
    print(found.of_temperature)
    name = found.name_in(folder)
    file = folder / f"evaluation_{name}.json"
    if output is not None and output.resolve() != file.resolve():
        write_text(output, as_json(found.metrics))
    try:
        write_text(file, as_json(found.plain()))
    except OSError as error:
        way_out = f"{shell_argument('output', 'metrics.json')} puts them into this folder"
        log.warning(
            "the intervals are not kept, since %s cannot be written (%s); %s", file, error.strerror, way_out
        )
    else:
        print_paths(Console(), {"with intervals": file})
    if cfg.report:
        from tlab.evaluating.report.page import write_report
        from tlab.runs.trained_model import TrainedModel

        trained = replace(found.trained, decode_options=found.data.decode_options)  # with data.max_megapixels
        model = TrainedModel(trained, cfg.accelerator, cfg.precision, cfg.calibrate)
        write_report(found, model, report := folder / f"report_{name}.html")
        print_paths(Console(), {"report": report})


def main() -> None:
    """Entry point of `python -m tlab.evaluate`."""
    run_command(run, "evaluate")


if __name__ == "__main__":
    main()
