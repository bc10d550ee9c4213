"""What the report's charts are drawn from, as plain data."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median_low
from typing import Any

from tlab.comparison.classes import class_report
from tlab.comparison.phrases import is_share, replicate_name
from tlab.comparison.result import Comparison, Setting
from tlab.comparison.statistics import spread

DIGITS = 5  # significant ones; more cannot be seen in a chart
MOST_CURVES = 100  # settings whose learning curves are in the file


def report_data(comparison: Comparison) -> dict[str, Any]:
    """Return the data of the charts of a report; settings without a result are left out."""
    ranked = comparison.ranked
    data = {
        "metric": comparison.monitor,
        "mode": comparison.mode,
        "replicate": comparison.replicate,
        "share": is_share(comparison.monitor),
        "factors": [{"name": f.name, "levels": f.levels, "number": f.is_number} for f in comparison.factors],
        "settings": [
            {
                "label": comparison.label(setting),
                "levels": setting.levels,
                "values": list(setting.values.values()),
                "replicates": [replicate_name(run) for run in setting.counted.values()],
                "mean": setting.result.mean,
                "low": setting.result.low,
                "high": setting.result.high,
                "p": setting.p,
                "seconds": setting.mean_of("seconds"),
            }
            for setting in ranked
        ],
        "runs": [
            {
                "setting": place,
                "replicate": replicate_name(run),
                "value": setting.values[run.replicate],
                "seconds": run.seconds,
            }
            for place, setting in enumerate(ranked)
            for run in setting.counted.values()
        ],
        "curves": {
            name: {"share": is_share(name), "lines": [_curve(setting, name) for setting in ranked[:MOST_CURVES]]}
            for name in _curve_metrics(ranked, comparison.monitor)
        },
        "phases": [_phases(setting) for setting in ranked[:MOST_CURVES]],
        "effects": [asdict(effect) for effect in comparison.effects.factors] if comparison.effects else [],
        "classes": class_report(ranked),
    }
    return _rounded(data)


def _curve_metrics(settings: Sequence[Setting], first: str) -> list[str]:
    """Return the metrics that history.csv of some run holds, `first` before the others."""
    rows = (run.history[0] for setting in settings for run in setting.counted.values() if run.history)
    names = {key for row in rows for key in row if key.startswith(("train/", "val/"))}
    return sorted(names, key=lambda name: (name != first, not name.startswith("val/"), name))


def _curve(setting: Setting, metric: str) -> dict[str, list[float | None]]:
    """Return `mean`, `low` and `high` over the counted runs, per epoch, as long as more than half of them last."""
    columns = [[row.get(metric) for row in run.history] for run in setting.counted.values()]
    length = median_low(map(len, columns))
    return spread([column[epoch] for column in columns if epoch < len(column)] for epoch in range(length))


def _phases(setting: Setting) -> list[dict[str, Any]]:
    """Return name and first epoch (from 1) of each phase of the setting's first counted run."""
    first = next(iter(setting.counted.values()))
    return [{"name": phase.get("name"), "start": phase.get("start", 0) + 1} for phase in first.phases]


def _rounded(data: Any) -> Any:
    """Round every float, and turn those that JSON cannot hold into None."""
    if isinstance(data, dict):
        return {key: _rounded(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_rounded(value) for value in data]
    if isinstance(data, float):
        return float(f"{data:.{DIGITS}g}") if abs(data) < float("inf") else None
    return data
