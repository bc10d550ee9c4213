"""The comparison on the terminal."""

from collections.abc import Callable, Sequence
from functools import partial

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tlab.comparison.load import FAILED, UNFINISHED
from tlab.comparison.phrases import advice_lines, detail, effects_sentence, heading, headline, p_value, span, value
from tlab.comparison.result import Comparison, Setting
from tlab.comparison.statistics import INTERVAL_NAMES, Summary
from tlab.core.text import counted, duration, few, noun

Columns = dict[str, Callable[[Setting], str]]  # heading -> text of a cell

MOST_SETTINGS = 20
MOST_LONG = 10  # settings whose names take several lines
MOST_RUNS = 8
MOST_COLUMNS = 3  # more factors are written into one column
DISPENSABLE = ("ECE", "behind", "of parameters", "trained", "images/s")  # in comparison.csv and the report too


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print the answer, the effects, tables of statistics and of costs, and cautions."""
    console.print()
    console.print(Text(headline(comparison), style="bold"))
    console.print(Text(detail(comparison)))
    if sentence := effects_sentence(comparison):
        console.print(Text(sentence))
    most = MOST_SETTINGS if len(comparison.factors) <= MOST_COLUMNS else MOST_LONG
    if comparison.ranked:
        for columns in (_statistics(comparison), _costs(comparison)):
            _print_table(console, comparison, comparison.ranked[:most], columns)
    if (more := len(comparison.ranked) - most) > 0:
        console.print(Text(f"and {more} more {noun(more, 'setting')}, see comparison.csv", style="dim"))
    for line in advice_lines(comparison):
        console.print(Text(line))
    for note in comparison.notes:
        console.print(Text(f"! {note}", style="yellow"))
    _print_lost(console, comparison)
    console.print(Text(heading(comparison), style="dim"))


def _print_table(console: Console, comparison: Comparison, settings: Sequence[Setting], columns: Columns) -> None:
    """Print a table; without `DISPENSABLE` columns where levels' names would be broken for them."""
    left_out, any_width = [], console.options.update_width(10_000)
    table = _table(comparison, settings, columns)
    while console.measure(table, options=any_width).maximum > console.width:
        if not (dispensable := [name for name in DISPENSABLE if name in columns]):
            break
        left_out.append(dispensable[0])
        del columns[dispensable[0]]
        table = _table(comparison, settings, columns)
    console.print(table)
    if left_out:
        console.print(Text(f"for want of width without {few(left_out, len(left_out))}", style="dim"))


def _statistics(comparison: Comparison) -> Columns:
    metric, ranked = comparison.monitor, comparison.ranked
    interval = f"95 % ({INTERVAL_NAMES[comparison.interval]})"
    columns: Columns = {
        "n": lambda s: str(len(s.values)),
        f"{metric} ± sd": lambda s: mean_sd(s.summary, metric),
        interval: lambda s: span(s.summary, metric),
        "behind": lambda s: value(s.behind.mean, metric, unit=False) if s.behind else "",
        "p (Holm)": lambda s: p_value(s.p) if s.difference else "",
        "oof acc": lambda s: value(s.out_of_fold, "acc"),
        comparison.test_metric: lambda s: value(s.test.mean if s.test else None, metric),
        **{name: partial(_further_test, name, metric) for name in comparison.further_tests},
        "ECE": lambda s: value(s.mean_of("ece"), "val/ece"),
    }
    told = {
        interval: any(len(setting.values) > 1 for setting in ranked),
        "behind": any(setting.difference for setting in ranked),
        "p (Holm)": any(setting.p is not None for setting in ranked),
        "oof acc": any(setting.out_of_fold is not None for setting in ranked),
        comparison.test_metric: any(setting.test for setting in ranked),
        "ECE": any(setting.mean_of("ece") is not None for setting in ranked),
    }
    return {name: cell for name, cell in columns.items() if told.get(name, True)}


def _costs(comparison: Comparison) -> Columns:
    return {
        f"epochs to {value(comparison.target, comparison.monitor)}": epochs,
        "time": lambda s: or_dash(s.mean_of("seconds"), duration),
        "images/s": lambda s: or_dash(s.mean_of("images_per_second"), whole),
        "trained": lambda s: or_dash(s.mean_of("trained_parameters"), millions),
        "of parameters": lambda s: or_dash(s.mean_of("parameters"), millions),
    }


def _table(comparison: Comparison, settings: Sequence[Setting], columns: Columns) -> Table:
    """Return a row per setting; its levels have a column each unless there are many, or none."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    separate = 0 < len(comparison.factors) <= MOST_COLUMNS
    for name in comparison.short_names if separate else ["setting"]:
        table.add_column(name, overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for place, setting in enumerate(settings):
        names = setting.levels if separate else (_short_label(comparison, setting),)
        style = "bold" if place == 0 else "" if setting.is_tied else "dim"
        table.add_row(*names, *(cell(setting) for cell in columns.values()), style=style)
    return table


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
        reason = run.error.splitlines()[0] if run.error else f"{counted(len(run.history), 'epoch')} done"
        line = Text(f"{run.status}  {run.name}: {reason}", style="red" if run.status == FAILED else "dim")
        console.print(line, no_wrap=True, overflow="ellipsis")
    if len(lost) > MOST_RUNS:
        console.print(Text(f"and {len(lost) - MOST_RUNS} more", style="dim"))


def mean_sd(summary: Summary | None, metric: str) -> str:
    """Return `36.5 ± 1.3 %`; of one run the value alone, of none a dash."""
    if summary is None or summary.sd is None:
        return value(summary.mean if summary else None, metric)
    return f"{value(summary.mean, metric, unit=False)} ± {value(summary.sd, metric)}"


def _further_test(name: str, metric: str, setting: Setting) -> str:
    return mean_span(setting.further_tests.get(name), metric)


def mean_span(summary: Summary | None, metric: str) -> str:
    """Return a mean and its interval, `36.5 % (34.0 to 39.0 %)`; of one run the value alone, of none a dash."""
    mean = value(summary.mean if summary else None, metric)
    return f"{mean} ({span(summary, metric)})" if summary and summary.low is not None else mean


def epochs(setting: Setting) -> str:
    """Return the median epochs to the target, and how many runs reached it where not all did."""
    if setting.epochs_to_target is None:
        return "never"
    some = "" if setting.reached == len(setting.counted) else f" ({setting.reached} of {len(setting.counted)})"
    return f"{setting.epochs_to_target:g}{some}"


def or_dash(number: float | None, text: Callable[[float], str]) -> str:
    """Return a number as `text` writes it; a dash for None."""
    return "–" if number is None else text(number)


def whole(number: float) -> str:
    """Return `5,130`."""
    return f"{number:,.0f}"


def millions(number: float) -> str:
    """Return a number of parameters as text: `11.2 M`, `5,130`."""
    return f"{number / 1e6:.1f} M" if number >= 1e6 else whole(number)
