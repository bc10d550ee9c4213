"""The end of a study: its figure, its points, the comparison of its runs, and what they say."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from tlab.comparison.write import compare
from tlab.dashboards.summary_table import print_paths
from tlab.runs.directory import RunDirectory
from tlab.studies.findings import findings, learning_curves, of_doubling
from tlab.studies.page import write_page
from tlab.studies.points import read_figure, write_points
from tlab.studies.study_runs import StudyRun


def draw(cfg: DictConfig, results: Mapping[StudyRun, RunDirectory]) -> bool:
    """Write the figure and what belongs to it, and print what it says; returns whether all runs are finished.

    Args:
        cfg: Configuration of tlab.study.
        results: Directory of each run.

    Raises:
        UserError: No run is finished, or none has the metric.
    """
    directory = Path(cfg.output).absolute()
    figure = read_figure(cfg, results)
    curves, remarks = learning_curves(figure) if cfg.fit else ([], [])
    figure = replace(figure, remarks=(*figure.remarks, *remarks))
    said = [*findings(figure), *(sentence for curve in curves for sentence in of_doubling(curve, figure.metric))]
    compare(directory, figure.metric, console=Console(quiet=True))
    page, points = write_page(cfg, figure, curves, said, directory), directory / "study.csv"
    write_points(figure, points)
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    console.print(f"\n{cfg.title} ({figure.metric})")
    for sentence in (*said, *figure.remarks):
        console.print(f"  {sentence}")
    print_paths(console, {"figure": page, "points": points, "runs compared": directory / "report.html"})
    return all(run.status == "finished" for run in results.values())
