"""Learning curves of a setting: mean over its runs, the range between them, and where its phases begin."""

from collections.abc import Iterable, Sequence
from statistics import fmean, median_low
from typing import Any

from tlab.comparison.result import Setting


def curve_metrics(settings: Sequence[Setting], first: str) -> list[str]:
    """Return the metrics that history.csv of some run holds, `first` before the others."""
    rows = (run.history[0] for setting in settings for run in setting.counted.values() if run.history)
    names = {key for row in rows for key in row if key.startswith(("train/", "val/"))}
    return sorted(names, key=lambda name: (name != first, not name.startswith("val/"), name))


def curve(setting: Setting, metric: str) -> dict[str, list[float | None]]:
    """Return `mean`, `low` and `high` over the counted runs, per epoch, as long as more than half of them last."""
    columns = [[row.get(metric) for row in run.history] for run in setting.counted.values()]
    length = median_low(map(len, columns))
    return spread([column[epoch] for column in columns if epoch < len(column)] for epoch in range(length))


def spread(groups: Iterable[Iterable[Any]]) -> dict[str, list[float | None]]:
    """Return `mean`, `low` and `high` of the numbers in each group, None where there are none."""
    known = [[value for value in group if isinstance(value, float) and value == value] for group in groups]
    return {
        "mean": [fmean(numbers) if numbers else None for numbers in known],
        "low": [min(numbers, default=None) for numbers in known],
        "high": [max(numbers, default=None) for numbers in known],
    }


def phases(setting: Setting) -> list[dict[str, Any]]:
    """Return name and first epoch (from 1) of each phase of the setting's first counted run."""
    first = next(iter(setting.counted.values()))
    return [{"name": phase.get("name"), "start": phase.get("start", 0) + 1} for phase in first.phases]
