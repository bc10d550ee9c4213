"""The comparison on the terminal."""

from collections.abc import Callable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tlab.comparison.load import FAILED, UNFINISHED
from tlab.comparison.phrases import (
    SIGNIFICANT,
    count,
    detail,
    effects_sentence,
    heading,
    headline,
    p_value,
    span,
    value,
)
from tlab.comparison.result import Comparison, Setting
from tlab.comparison.statistics import INTERVAL_NAMES, Summary
from tlab.core.text import duration

MOST_SETTINGS = 20
MOST_LONG = 10  # settings whose names take several lines
MOST_RUNS = 8
MOST_COLUMNS = 3  # more factors are written into one column


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print the answer, the effects, tables of statistics and of costs, and cautions."""
    console.print()
    console.print(Text(headline(comparison), style="bold"))
    console.print(Text(detail(comparison)))
    if sentence := effects_sentence(comparison):
        console.print(Text(sentence))
    if comparison.ranked:
        console.print(_statistics_table(comparison))
        console.print(_costs_table(comparison))
    if (more := len(comparison.ranked) - len(_shown(comparison))) > 0:
        console.print(Text(f"and {more} more settings, see comparison.csv", style="dim"))
    for note in comparison.notes:
        console.print(Text(f"! {note}", style="yellow"))
    _print_lost(console, comparison)
    console.print(Text(heading(comparison), style="dim"))


def _shown(comparison: Comparison) -> tuple[Setting, ...]:
    return comparison.ranked[: MOST_SETTINGS if len(comparison.factors) <= MOST_COLUMNS else MOST_LONG]


def _statistics_table(comparison: Comparison) -> Table:
    metric, interval = comparison.monitor, f"95 % ({INTERVAL_NAMES[comparison.interval]})"
    table = _table(comparison)
    columns: dict[str, Callable[[Setting], str]] = {
        "n": lambda s: str(len(s.values)),
        f"{metric} ± sd": lambda s: mean_sd(s.summary, metric) if s.summary else "–",
        interval: lambda s: span(s.summary, metric) if s.summary else "–",
        "behind": lambda s: _behind(s, metric),
        "p (Holm)": lambda s: p_value(s.difference.p_corrected) if s.difference else "",
        comparison.test_metric: lambda s: value(s.test.mean if s.test else None, metric),
    }
    if not any(setting.test for setting in comparison.ranked):
        del columns[comparison.test_metric]
    if len(comparison.ranked) == 1:
        del columns["behind"]
    if all(setting.difference is None or setting.difference.p is None for setting in comparison.ranked):
        del columns["p (Holm)"]
    if all(len(setting.values) == 1 for setting in comparison.ranked):
        del columns[interval]
    _fill(table, comparison, columns)
    return table


def _costs_table(comparison: Comparison) -> Table:
    table = _table(comparison)
    target = value(comparison.target, comparison.monitor)
    columns: dict[str, Callable[[Setting], str]] = {
        f"epochs to {target}": lambda s: epochs(s),
        "time": lambda s: _seconds(s.mean_of("seconds")),
        "images/s": lambda s: _whole(s.mean_of("images_per_second")),
        "trained": lambda s: millions(s.mean_of("trained_parameters")),
        "of parameters": lambda s: millions(s.mean_of("parameters")),
    }
    _fill(table, comparison, columns)
    return table


def _table(comparison: Comparison) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    names = comparison.short_names
    for name in names if 0 < len(names) <= MOST_COLUMNS else ["setting"]:
        table.add_column(name, overflow="fold")
    return table


def _fill(table: Table, comparison: Comparison, columns: dict[str, Callable[[Setting], str]]) -> None:
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    separate = 0 < len(comparison.factors) <= MOST_COLUMNS
    for place, setting in enumerate(_shown(comparison)):
        names = setting.levels if separate else (_short_label(comparison, setting),)
        p = setting.difference.p_corrected if setting.difference else None
        worse = p is not None and p < SIGNIFICANT
        style = "bold" if place == 0 else "dim" if worse else ""
        table.add_row(*names, *(cell(setting) for cell in columns.values()), style=style)


def _short_label(comparison: Comparison, setting: Setting) -> str:
    """Return the setting in one cell, numbers in three digits; where nothing differs, its label."""
    parts = [
        f"{name}={float(level):.3g}" if factor.is_number else f"{name}={level}"
        for name, factor, level in zip(comparison.short_names, comparison.factors, setting.levels, strict=True)
    ]
    return " ".join(parts) or comparison.label(setting)


def _print_lost(console: Console, comparison: Comparison) -> None:
    lost = [run for run in comparison.runs if run.status in (FAILED, UNFINISHED)]
    for run in lost[:MOST_RUNS]:
        reason = run.error.splitlines()[0] if run.error else f"{count(len(run.history), 'epoch')} done"
        line = Text(f"{run.status}  {run.name}: {reason}", style="red" if run.status == FAILED else "dim")
        console.print(line, no_wrap=True, overflow="ellipsis")
    if len(lost) > MOST_RUNS:
        console.print(Text(f"and {len(lost) - MOST_RUNS} more", style="dim"))


def mean_sd(summary: Summary, metric: str) -> str:
    """Return `36.5 ± 1.3 %`; of one seed the value alone."""
    if summary.sd is None:
        return value(summary.mean, metric)
    return f"{value(summary.mean, metric, unit=False)} ± {value(summary.sd, metric)}"


def _behind(setting: Setting, metric: str) -> str:
    if setting.difference is None or setting.difference.summary is None:
        return ""
    return value(setting.difference.summary.mean, metric, unit=False)


def epochs(setting: Setting) -> str:
    """Return the median epochs to the target, and how many runs reached it where not all did."""
    if setting.epochs_to_target is None:
        return "never"
    some = "" if setting.reached == len(setting.counted) else f" ({setting.reached} of {len(setting.counted)})"
    return f"{setting.epochs_to_target:g}{some}"


def millions(number: float | None) -> str:
    """Return a number of parameters as text: `11.2 M`, `5,130`."""
    if number is None:
        return "–"
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number:,.0f}"


def _seconds(seconds: float | None) -> str:
    return "–" if seconds is None else duration(seconds)


def _whole(number: float | None) -> str:
    return "–" if number is None else f"{number:,.0f}"
