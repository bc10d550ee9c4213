"""The two tables of the report as HTML: settings and runs; its script sorts and filters them."""

from collections.abc import Iterable
from html import escape
from pathlib import Path

from tlab.comparison.load import Run
from tlab.comparison.phrases import p_value, span, value
from tlab.comparison.report.report_data import run_link
from tlab.comparison.result import Comparison, Setting
from tlab.comparison.terminal import epochs, mean_sd, millions
from tlab.core.text import duration

MOST_CHOICES = 40  # levels of a factor that has a list to choose from

Cell = tuple[str, float | str | None]  # HTML, and what it is sorted by


def filters(comparison: Comparison) -> str:
    """Return a list to choose from for each factor with few levels."""
    lists = []
    for place, factor in enumerate(comparison.factors):
        if len(factor.levels) <= MOST_CHOICES:
            options = "".join(f"<option>{escape(level)}</option>" for level in factor.levels)
            lists.append(
                f"<label>{escape(factor.name)}<select data-factor='{place}'><option value=''>all</option>"
                f"{options}</select></label>"
            )
    return "".join(lists)


def settings_table(comparison: Comparison) -> str:
    """Return a row per setting, the best one first."""
    metric = comparison.monitor
    heads = [
        ("#", "number"),
        *((factor.name, "number" if factor.is_number else "text") for factor in comparison.factors),
        *(("n", "number"), (f"{metric} ± sd", "number"), ("95 % interval", "number")),
        *(("behind", "number"), ("p (Holm)", "number"), (comparison.test_metric, "number")),
        (f"epochs to {value(comparison.target, metric)}", "number"),
        *(("time", "number"), ("images/s", "number"), ("trained", "number")),
    ]
    rows = [
        _row(_setting_cells(comparison, setting, rank), comparison, setting, number=rank - 1)
        for rank, setting in enumerate(comparison.settings, start=1)
    ]
    return _table("settings", "Settings, the best first", heads, rows)


def _setting_cells(comparison: Comparison, setting: Setting, rank: int) -> list[Cell]:
    metric, summary, difference = comparison.monitor, setting.summary, setting.difference
    behind = difference.summary if difference else None
    p = difference.p_corrected if difference else None
    test = setting.test.mean if setting.test else None
    seconds, speed = setting.mean_of("seconds"), setting.mean_of("images_per_second")
    trained = setting.mean_of("trained_parameters")
    return [
        (str(rank), rank),
        *_level_cells(comparison, setting),
        (f"{len(setting.values)}/{len(setting.runs)}", len(setting.values)),
        (mean_sd(summary, metric) if summary else "–", summary.mean if summary else None),
        (span(summary, metric) if summary else "–", summary.low if summary else None),
        (value(behind.mean, metric, unit=False) if behind else "–", behind.mean if behind else None),
        (p_value(p), p),
        (value(test, metric), test),
        (epochs(setting) if summary else "–", setting.epochs_to_target),
        (duration(seconds) if seconds is not None else "–", seconds),
        (f"{speed:,.0f}" if speed is not None else "–", speed),
        (millions(trained), trained),
    ]


def runs_table(comparison: Comparison, directory: Path) -> str:
    """Return a row per run, with a link to its directory."""
    metric = comparison.monitor
    heads = [
        ("run", "text"),
        *((factor.name, "number" if factor.is_number else "text") for factor in comparison.factors),
        *(("seed", "number"), ("status", "text"), (metric, "number"), (comparison.test_metric, "number")),
        *(("best epoch", "number"), ("epochs", "number"), ("time", "number"), ("remark", "text")),
    ]
    rows = []
    for number, setting in enumerate(comparison.settings):
        for run in setting.runs:
            best = run.metrics.get("best_epoch")
            result, test = run.metrics.get(metric), run.metrics.get(comparison.test_metric)
            remark = run.error or ("" if setting.counted.get(run.seed, run) is run else "the same again, left out")
            cells: list[Cell] = [
                (f"<a href='{escape(run_link(run, directory))}'>open</a>", run.name),
                *_level_cells(comparison, setting),
                (str(run.seed), run.seed),
                (f"<span class='status {run.status}'>{run.status}</span>", run.status),
                (value(result, metric), result),
                (value(test, metric), test),
                (str(round(best) + 1) if best is not None else "–", best),
                (str(len(run.history)), len(run.history)),
                (duration(run.seconds) if run.seconds is not None else "–", run.seconds),
                (escape(remark.splitlines()[0] if remark else ""), remark),
            ]
            rows.append(_row(cells, comparison, setting, number, extra=f"{run.name} {run.status} seed={run.seed}"))
    rows += [_row_without_setting(comparison, run, directory) for run in comparison.without_setting]
    return _table("runs", "Every run", heads, rows)


def _row_without_setting(comparison: Comparison, run: Run, directory: Path) -> str:
    """Return the row of a run that failed before it began, with its name in the remark."""
    nothing: Cell = ("–", None)
    remark = f"{run.name}: {run.error or run.status}".splitlines()[0]
    cells: list[Cell] = [
        (f"<a href='{escape(run_link(run, directory))}'>open</a>", run.name),
        *(nothing for _ in comparison.factors),
        (str(run.seed), run.seed),
        (f"<span class='status {run.status}'>{run.status}</span>", run.status),
        *(nothing for _ in range(5)),
        (escape(remark), remark),
    ]
    words = escape(f"{run.name} {run.status}".lower())
    place = len(comparison.settings)  # after all settings: no chart shows it
    return f"<tr class='' data-setting='{place}' data-words='{words}'>{''.join(map(_cell, cells))}</tr>"


def _level_cells(comparison: Comparison, setting: Setting) -> list[Cell]:
    pairs = zip(comparison.factors, setting.levels, strict=True)
    return [(escape(level), float(level) if factor.is_number else level) for factor, level in pairs]


def _row(cells: Iterable[Cell], comparison: Comparison, setting: Setting, number: int, extra: str = "") -> str:
    words = escape(f"{comparison.label(setting)} {extra}".lower())
    tied = setting.difference and (setting.difference.p_corrected is None or setting.difference.p_corrected >= 0.05)
    kind = "best" if number == 0 and setting.summary else "tied" if tied else ""
    return f"<tr class='{kind}' data-setting='{number}' data-words='{words}'>{''.join(map(_cell, cells))}</tr>"


def _cell(cell: Cell) -> str:
    text, key = cell
    kind = " class='text'" if isinstance(key, str) else ""
    return f"<td{kind} data-key='{'' if key is None else escape(str(key))}'>{text}</td>"


def _table(name: str, caption: str, heads: list[tuple[str, str]], rows: list[str]) -> str:
    head = "".join(
        f"<th scope='col' class='{kind}' aria-sort='none'><button type='button'>{escape(text)}</button></th>"
        for text, kind in heads
    )
    return (
        f"<div class='scroll' tabindex='0' role='region' aria-label='{caption}'><table id='{name}'>"
        f"<caption>{caption} <output></output></caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
