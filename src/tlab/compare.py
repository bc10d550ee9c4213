"""Runs compared: `python -m tlab.compare sweep=DIR`, and at the end of every sweep."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from tlab.checks import check_values
from tlab.command import run_command
from tlab.schema import CompareConfig

if TYPE_CHECKING:  # imported when the work begins, not for --help
    from rich.console import Console

    from tlab.comparison import Comparison


def compare(
    directory: Path,
    monitor: str | None = None,
    *,
    target: float | None = None,
    interval: str = "t",
    test: str = "t",
    output: Path | None = None,
    console: "Console | None" = None,
) -> "Comparison":
    """Compare the runs in and below `directory`; print the answer, write `comparison.csv` and `report.html`.

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
    from rich.text import Text

    from tlab.comparison import compare_runs
    from tlab.comparison.report import write_report
    from tlab.comparison.tables import write_tables
    from tlab.comparison.terminal import print_comparison
    from tlab.dashboards.closing_table import short_path

    console = console or Console()
    comparison = compare_runs(directory, monitor, target, interval, test)
    table, _ = write_tables(comparison, output or directory)
    report = write_report(comparison, output or directory)
    print_comparison(console, comparison)
    for name, path in {"table ": table, "report": report}.items():
        console.print(Text.assemble((f"{name}  ", "bold"), str(short_path(path))), soft_wrap=True)
    return comparison


def run(cfg: DictConfig) -> None:
    """Compare what the command line names."""
    check_values(cfg, CompareConfig)
    output = Path(cfg.output) if cfg.output is not None else None
    compare(Path(cfg.sweep), cfg.monitor, target=cfg.target, interval=cfg.interval, test=cfg.test, output=output)


def main() -> None:
    """Entry point of `python -m tlab.compare`."""
    run_command(run, "compare")


if __name__ == "__main__":
    main()
