"""The comparison as CSV: `comparison.csv`, a row per setting, and `comparison_runs.csv`, a row per run."""

from pathlib import Path
from typing import Any

from tlab.comparison.load import STATUSES, Run
from tlab.comparison.result import Comparison, Setting
from tlab.comparison.statistics import Summary
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
    return {
        "rank": rank if setting.summary and not comparison.data_sets else None,
        **_levels(comparison, setting),
        **{status: setting.count(status) for status in STATUSES},
        "metric": comparison.monitor,
        **_numbers(setting.summary, mean="mean", sd="sd", ci_low="low", ci_high="high"),
        "interval": comparison.interval,
        **({"oof_acc": setting.out_of_fold} if comparison.replicate != "seed" else {}),
        **_numbers(setting.test, test_mean="mean", test_sd="sd"),
        **(_advice(setting) if comparison.is_advised else {}),
        **{
            f"{name}_{column}": number
            for name in comparison.further_tests
            for column, number in _numbers(
                setting.further_tests.get(name), mean="mean", sd="sd", ci_low="low", ci_high="high"
            ).items()
        },
        **_numbers(
            setting.behind, behind_seeds="n", behind_mean="mean", behind_ci_low="low", behind_ci_high="high"
        ),
        "val/ece_mean": setting.mean_of("ece"),
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
        **({"fold": run.fold} if comparison.replicate != "seed" else {}),
        "status": run.status,
        "counted": int(setting is not None and setting.counted.get(run.replicate) is run),
        comparison.monitor: run.metrics.get(comparison.monitor),
        **{name: run.metrics.get(name) for name in (comparison.test_metric, *comparison.further_tests)},
        "val/ece": run.ece,
        "best_epoch": run.metrics.get("best_epoch"),
        "epochs": len(run.history),
        "epochs_to_target": None if target is None else run.epochs_to(comparison.monitor, target, comparison.mode),
        "seconds": run.seconds,
        "images_per_second": run.images_per_second,
        "refitted": int(run.is_refitted),
        **({"advice_kept": None if run.is_kept is None else int(run.is_kept)} if comparison.is_advised else {}),
        "error": run.error,
    }


def _advice(setting: Setting) -> dict[str, Any]:
    low, high = setting.expected or (None, None)
    kept = [bool(run.is_kept) for run in setting.advised]
    return {
        "expected_low": low,
        "expected_high": high,
        "advice_kept": sum(kept),
        "advice_missed": len(kept) - sum(kept),
    }


def _levels(comparison: Comparison, setting: Setting | None) -> dict[str, str | None]:
    names = [factor.name for factor in comparison.factors]
    return dict(zip(names, setting.levels, strict=True)) if setting else dict.fromkeys(names)


def _numbers(summary: Summary | None, **attributes: str) -> dict[str, float | None]:
    """Return column -> attribute of the summary; None where there is no summary."""
    return {column: getattr(summary, name, None) for column, name in attributes.items()}


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    texts = [
        {name: f"{cell:.{DIGITS}g}" if isinstance(cell, float) else cell for name, cell in row.items()}
        for row in rows
    ]
    write_csv(file, list(rows[0]), texts)
