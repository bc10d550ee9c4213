"""Learning curves of a setting: mean over its runs, the range between them, and where its phases begin."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from tlab.comparison.load import Run
from tlab.comparison.result import Setting

LAST = ("seconds", "images_per_second", "epoch")  # columns of history.csv that are not curves


def curve_metrics(settings: Sequence[Setting], first: str) -> list[str]:
    """Return the metrics that history.csv of some run holds, `first` before the others."""
    rows = (run.history[0] for setting in settings for run in setting.counted.values() if run.history)
    names = dict.fromkeys(key for row in rows for key in row if key not in LAST and not key.startswith("lr/"))
    numbers = [name for name in names if name != "phase"]
    return sorted(numbers, key=lambda name: (name != first, not name.startswith("val/"), name))


def curve(setting: Setting, metric: str) -> dict[str, list[float | None]]:
    """Return `mean`, `low` and `high` over the runs, per epoch, as long as more than half of the runs last."""
    columns = [[row.get(metric) for row in run.history] for run in setting.counted.values()]
    lengths = sorted((len(column) for column in columns), reverse=True)
    length = lengths[len(lengths) // 2] if lengths else 0
    lines: dict[str, list[float | None]] = {"mean": [], "low": [], "high": []}
    for epoch in range(length):
        values = [column[epoch] for column in columns if epoch < len(column)]
        numbers = [value for value in values if isinstance(value, float) and value == value]
        lines["mean"].append(fmean(numbers) if numbers else None)
        lines["low"].append(min(numbers, default=None))
        lines["high"].append(max(numbers, default=None))
    return lines


def phases(setting: Setting) -> list[dict[str, Any]]:
    """Return name and first epoch (from 1) of each phase of the setting's first run."""
    run: Run | None = next(iter(setting.counted.values()), None)
    if run is None:
        return []
    return [{"name": phase.get("name"), "start": phase.get("start", 0) + 1} for phase in run.phases]
