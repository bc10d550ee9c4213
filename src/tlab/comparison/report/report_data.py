"""What the report's charts are drawn from, as plain data."""

from dataclasses import asdict
from typing import Any

from tlab.comparison.classes import class_report
from tlab.comparison.curves import curve, curve_metrics, phases
from tlab.comparison.phrases import is_share
from tlab.comparison.result import Comparison, Setting

DIGITS = 5  # significant ones; more cannot be seen in a chart
MOST_CURVES = 100  # settings whose learning curves are in the file


def report_data(comparison: Comparison) -> dict[str, Any]:
    """Return the data of the charts of a report; settings without a result are left out."""
    ranked = comparison.ranked
    data = {
        "metric": comparison.monitor,
        "mode": comparison.mode,
        "share": is_share(comparison.monitor),
        "factors": [{"name": f.name, "levels": f.levels, "number": f.is_number} for f in comparison.factors],
        "settings": [_setting(comparison, setting) for setting in ranked],
        "runs": [
            {"setting": place, "seed": run.seed, "value": setting.values[run.seed], "seconds": run.seconds}
            for place, setting in enumerate(ranked)
            for run in setting.counted.values()
        ],
        "curves": {
            name: {"share": is_share(name), "lines": [curve(setting, name) for setting in ranked[:MOST_CURVES]]}
            for name in curve_metrics(ranked, comparison.monitor)
        },
        "phases": [phases(setting) for setting in ranked[:MOST_CURVES]],
        "effects": [asdict(effect) for effect in comparison.effects.factors] if comparison.effects else [],
        "classes": class_report(ranked),
    }
    return _rounded(data)


def _setting(comparison: Comparison, setting: Setting) -> dict[str, Any]:
    return {
        "label": comparison.label(setting),
        "levels": setting.levels,
        "values": list(setting.values.values()),
        "seeds": list(setting.values),
        "mean": setting.result.mean,
        "low": setting.result.low,
        "high": setting.result.high,
        "p": setting.p,
        "seconds": setting.mean_of("seconds"),
    }


def _rounded(data: Any) -> Any:
    """Round every float, and turn those that JSON cannot hold into None."""
    if isinstance(data, dict):
        return {key: _rounded(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_rounded(value) for value in data]
    if isinstance(data, float):
        return float(f"{data:.{DIGITS}g}") if abs(data) < float("inf") else None
    return data
