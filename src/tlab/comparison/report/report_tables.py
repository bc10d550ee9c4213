"""The two tables of the report as HTML: settings and runs; its script sorts and filters them."""

import os
from html import escape
from pathlib import Path
from urllib.parse import quote

from tlab.comparison.phrases import expectation, p_value, span, value, verdict
from tlab.comparison.result import Comparison, Setting
from tlab.comparison.terminal import epochs, mean_sd, mean_span, millions, or_dash, whole
from tlab.core.text import duration
from tlab.pages.table import Cell, table

MOST_CHOICES = 40  # levels of a factor that has a list to choose from


def filters(comparison: Comparison) -> str:
    """Return a list to choose from for each factor with few levels."""
    few = [(place, factor) for place, factor in enumerate(comparison.factors) if len(factor.levels) <= MOST_CHOICES]
    return "".join(
        f"<label>{escape(factor.name)}<select data-factor='{place}'><option value=''>all</option>"
        + "".join(f"<option>{escape(level)}</option>" for level in factor.levels)
        + "</select></label>"
        for place, factor in few
    )


def settings_table(comparison: Comparison) -> str:
    """Return a row per setting, the best one first."""
    metric = comparison.monitor
    heads = [
        *("#", *(factor.name for factor in comparison.factors), "n", f"{metric} ± sd", "95 % interval", "behind"),
        *("p (Holm)", *_out_of_fold(comparison), *_tested(comparison), *comparison.further_tests, "ECE"),
        *(("expected", "advice") if comparison.is_advised else ()),
        *(f"epochs to {value(comparison.target, metric)}", "time", "images/s", "trained"),
    ]
    rows = []
    for place, setting in enumerate(comparison.settings):
        summary, behind = setting.summary, setting.behind
        test = setting.test.mean if setting.test else None
        further = [setting.further_tests.get(name) for name in comparison.further_tests]
        seconds, speed = setting.mean_of("seconds"), setting.mean_of("images_per_second")
        trained, ece = setting.mean_of("trained_parameters"), setting.mean_of("ece")
        cells: list[Cell] = [
            (str(place + 1), place + 1),
            *_level_cells(comparison, setting),
            (f"{len(setting.values)}/{len(setting.runs)}", len(setting.values)),
            (mean_sd(summary, metric), summary.mean if summary else None),
            (span(summary, metric), summary.low if summary else None),
            (value(behind.mean, metric, unit=False) if behind else "–", behind.mean if behind else None),
            (p_value(setting.p), setting.p),
            *((value(setting.out_of_fold, "acc"), setting.out_of_fold) for _ in _out_of_fold(comparison)),
            *((value(test, metric), test) for _ in _tested(comparison)),
            *((mean_span(found, metric), found.mean if found else None) for found in further),
            (value(ece, "val/ece"), ece),
            *(_advice_cells(setting) if comparison.is_advised else ()),
            (epochs(setting) if summary else "–", setting.epochs_to_target),
            (or_dash(seconds, duration), seconds),
            (or_dash(speed, whole), speed),
            (or_dash(trained, millions), trained),
        ]
        rows.append((_attributes(comparison, setting, place), cells))
    return table("settings", "Settings, the best first", heads, rows)


def runs_table(comparison: Comparison, directory: Path) -> str:
    """Return a row per run, with a link to its directory."""
    metric = comparison.monitor
    folds = ["fold"] if comparison.replicate != "seed" else []
    heads = [
        *("run", *(factor.name for factor in comparison.factors), "seed", *folds, "status", metric),
        *(*_tested(comparison), *comparison.further_tests, "ECE", "best epoch", "epochs", "time", "remark"),
    ]
    rows = []
    for run, setting, place in comparison.places():
        result, test, best = (run.metrics.get(name) for name in (metric, comparison.test_metric, "best_epoch"))
        if setting is None:
            remark, done = f"{run.name}: {run.error or run.status}", None
        else:
            again = setting.counted.get(run.replicate, run) is not run
            refit = "refitted" if run.is_refitted else "not refitted yet" if run.lacks_refit else ""
            told = "the same again, left out" if again else refit
            remark, done = run.error or told, len(run.history)
        remark = remark.partition("\n")[0]
        path = Path(os.path.relpath(run.path.resolve(), directory.resolve()))
        cells: list[Cell] = [
            (f"<a href='{escape(quote(path.as_posix(), safe='/=,+@'))}/'>open</a>", run.name),
            *_level_cells(comparison, setting),
            (str(run.seed), run.seed),
            *((or_dash(run.fold, str), run.fold) for _ in folds),
            (f"<span class='status {run.status}'>{run.status}</span>", run.status),
            (value(result, metric), result),
            *((value(test, metric), test) for _ in _tested(comparison)),
            *((value(found := run.metrics.get(name), metric), found) for name in comparison.further_tests),
            (value(run.ece, "val/ece"), run.ece),
            (or_dash(best, lambda epoch: str(round(epoch) + 1)), best),
            (or_dash(done, str), done),
            (or_dash(run.seconds, duration), run.seconds),
            (escape(remark), remark),
        ]
        words = f"{run.name} {run.status} seed={run.seed}" + (f" fold={run.fold}" if folds else "")
        rows.append((_attributes(comparison, setting, place, words), cells))
    return table("runs", "Every run", heads, rows)


def _tested(comparison: Comparison) -> list[str]:
    """Return the metric on the test split, which has a column where it does not decide."""
    return [comparison.test_metric] if comparison.test_metric != comparison.monitor else []


def _out_of_fold(comparison: Comparison) -> list[str]:
    """Return the heading of the out-of-fold accuracy, which has a column where some setting has one."""
    return ["oof acc"] if any(setting.out_of_fold is not None for setting in comparison.settings) else []


def _advice_cells(setting: Setting) -> tuple[Cell, Cell]:
    told = verdict(setting)
    return (expectation(setting), setting.expected[0] if setting.expected else None), (told, told)


def _level_cells(comparison: Comparison, setting: Setting | None) -> list[Cell]:
    if setting is None:
        return [("–", None)] * len(comparison.factors)
    pairs = zip(comparison.factors, setting.levels, strict=True)
    return [(escape(level), float(level) if factor.is_number else level) for factor, level in pairs]


def _attributes(comparison: Comparison, setting: Setting | None, place: int, words: str = "") -> str:
    label = comparison.label(setting) if setting else ""
    tied = setting and setting.difference and setting.is_tied
    kind = "best" if place == 0 and setting and setting.summary else "tied" if tied else ""
    return f"class='{kind}' data-setting='{place}' data-words='{escape(f'{label} {words}'.lower())}'"
