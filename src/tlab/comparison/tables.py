"""The comparison as CSV: `comparison.csv`, a row per setting, and `comparison_runs.csv`, a row per run."""

from pathlib import Path
from typing import Any

from tlab.comparison.load import STATUSES, Run
from tlab.comparison.result import Comparison, Setting
from tlab.core.files import write_csv

DIGITS = 6  # significant ones: metrics come in single precision


def write_tables(comparison: Comparison, directory: Path) -> tuple[Path, Path]:
    """Write both tables and return their paths.

    `comparison.csv` holds nothing that depends on time or place, so a sweep that was killed and resumed, or ran
    elsewhere, gives the same file; times and speeds are in `comparison_runs.csv`.
    """
    settings, runs = directory / "comparison.csv", directory / "comparison_runs.csv"
    _write(settings, [_setting_row(comparison, setting, i) for i, setting in enumerate(comparison.settings, 1)])
    _write(runs, [_run_row(comparison, run, setting) for run, setting, _ in comparison.places()])
    return settings, runs


def _setting_row(comparison: Comparison, setting: Setting, rank: int) -> dict[str, Any]:
    summary, test, behind = setting.summary, setting.test, setting.behind
    return {
        "rank": rank if summary else None,
        **_levels(comparison, setting),
        **{status: setting.count(status) for status in STATUSES},
        "metric": comparison.monitor,
        "mean": summary.mean if summary else None,
        "sd": summary.sd if summary else None,
        "ci_low": summary.low if summary else None,
        "ci_high": summary.high if summary else None,
        "interval": comparison.interval,
        "test_mean": test.mean if test else None,
        "test_sd": test.sd if test else None,
        "behind_seeds": behind.n if behind else None,
        "behind_mean": behind.mean if behind else None,
        "behind_ci_low": behind.low if behind else None,
        "behind_ci_high": behind.high if behind else None,
        "paired_test": comparison.test,
        "p": setting.difference.p if setting.difference else None,
        "p_holm": setting.p,
        "target": comparison.target,
        "epochs_to_target": setting.epochs_to_target,
        "reached_target": setting.reached,
        "parameters": _whole(setting.mean_of("parameters")),
        "trained_parameters": _whole(setting.mean_of("trained_parameters")),
    }


def _run_row(comparison: Comparison, run: Run, setting: Setting | None) -> dict[str, Any]:
    target = comparison.target
    return {
        "run": run.name,
        **_levels(comparison, setting),
        "seed": run.seed,
        "status": run.status,
        "counted": int(setting is not None and setting.counted.get(run.seed) is run),
        comparison.monitor: run.metrics.get(comparison.monitor),
        comparison.test_metric: run.metrics.get(comparison.test_metric),
        "best_epoch": run.metrics.get("best_epoch"),
        "epochs": len(run.history),
        "epochs_to_target": None if target is None else run.epochs_to(comparison.monitor, target, comparison.mode),
        "seconds": run.seconds,
        "images_per_second": run.images_per_second,
        "error": run.error,
    }


def _levels(comparison: Comparison, setting: Setting | None) -> dict[str, str | None]:
    names = [factor.name for factor in comparison.factors]
    return dict(zip(names, setting.levels, strict=True)) if setting else dict.fromkeys(names)


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    texts = [
        {name: f"{cell:.{DIGITS}g}" if isinstance(cell, float) else cell for name, cell in row.items()}
        for row in rows
    ]
    write_csv(file, list(rows[0]), texts)
