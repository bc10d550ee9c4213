"""The comparison of runs, printed and written: two tables, a report, and the predictions of folds."""

from pathlib import Path
from typing import TYPE_CHECKING

from tlab.comparison.compare import compare_runs
from tlab.comparison.result import Comparison
from tlab.core.files import check_writable

if TYPE_CHECKING:  # imported when the work begins, not for --help
    from rich.console import Console


def compare(
    directory: Path,
    monitor: str | None = None,
    *,
    target: float | None = None,
    interval: str = "t",
    test: str = "t",
    output: Path | None = None,
    console: "Console | None" = None,
) -> Comparison:
    """Compare the runs in and below `directory`; print the answer, write `comparison.csv` and `report.html`.

    Of runs with folds, also `oof.csv`.

    Args:
        directory: A sweep, any folder of runs, or one run.
        monitor: Metric that decides; None takes the runs' own `checkpoint.monitor`.
        target: Value of it that "epochs to target" counts to; None takes 95 % of the best setting's mean.
        interval: `t` or `bootstrap`.
        test: `t` or `wilcoxon`.
        output: Folder to write to; None is `directory`.
        console: Where to print; None is standard output.

    Raises:
        UserError: There is no run, or no finished run has the metric.
    """
    from rich.console import Console

    from tlab.comparison.out_of_fold import write_out_of_fold
    from tlab.comparison.report.report import write_report
    from tlab.comparison.tables import write_tables
    from tlab.comparison.terminal import print_comparison
    from tlab.dashboards.summary_table import print_paths

    console = console or Console()
    if output is not None or directory.is_dir():
        check_writable(output or directory, "give output=DIR")
    comparison = compare_runs(directory, monitor, target, interval, test)
    table, _ = write_tables(comparison, output or directory)
    report = write_report(comparison, output or directory)
    joined = write_out_of_fold(comparison, output or directory)
    print_comparison(console, comparison)
    out_of_fold = {"out of fold": joined} if joined is not None else {}
    print_paths(console, {"table": table, "report": report, **out_of_fold})
    return comparison
