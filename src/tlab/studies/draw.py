"""The end of a study: its figure, its points, the comparison of its runs, and what they say."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from tlab.comparison.write import compare
from tlab.core.text import counted
from tlab.dashboards.summary_table import print_paths
from tlab.runs.directory import RunDirectory
from tlab.studies.earlier_runs import earlier_runs, had_other_images
from tlab.studies.findings import findings, how_sure, learning_curves, of_doubling
from tlab.studies.page import write_page
from tlab.studies.plot import PLOT, write_plot
from tlab.studies.points import read_figure, write_points
from tlab.studies.study_runs import StudyRun
from tlab.sweeps.resume import Finished


def draw(cfg: DictConfig, results: Mapping[StudyRun, RunDirectory]) -> bool:
    """Write the figure and what belongs to it, and print what it says.

    Returns whether all runs are finished, over the images that there are now.

    Args:
        cfg: Configuration of tlab.study.
        results: Directory of each run.

    Raises:
        UserError: No run is finished, or none has the metric.
    """
    directory = Path(cfg.output).absolute()
    looked = Finished(sources=None)
    refused = {
        run: result
        for run, result in results.items()
        if result.status == "finished" and had_other_images(result, run.overrides, looked)
    }
    earlier, of_earlier = earlier_runs(cfg.x, results, directory, looked)
    if refused:
        of_earlier.append(f"{counted(refused, 'run')} left out, with other images than there are now.")
    kept = {run: result for run, result in results.items() if run not in refused}
    figure = read_figure(cfg, {**kept, **earlier})
    curves, of_curves = learning_curves(figure) if cfg.fit else ([], [])
    figure = replace(figure, remarks=(*of_earlier, *figure.remarks, *of_curves))
    said = [*findings(figure), *(sentence for curve in curves for sentence in of_doubling(curve, figure.metric))]
    compare(directory, figure.metric, console=Console(quiet=True))
    write_points(figure, directory / "study.csv")
    curves = [curve for curve in curves if curve.falls]
    write_plot(cfg, figure, curves, directory)
    page = write_page(cfg, figure, curves, said, directory)
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    console.print(f"\n{cfg.title} ({figure.metric})")
    for sentence in (*said, how_sure(figure), *figure.remarks):
        console.print(f"  {sentence}")
    paths = {"figure": page, "for a paper": directory / PLOT, "points": directory / "study.csv"}
    print_paths(console, {**paths, "runs compared": directory / "report.html"})
    return not refused and all(run.status == "finished" for run in results.values())
