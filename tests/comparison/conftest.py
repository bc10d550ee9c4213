"""Made run directories with known answers."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tlab.runs.directory import RunDirectory

CLASSES = ("cat", "dog")


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"a": {"b": 1}}` for `{"a.b": 1}`."""
    config: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        node = config
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return config


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run directory below `tmp_path / "sweep"` as tlab.train would, without training."""

    def make(
        name: str,
        accuracy: float | Sequence[float] = 0.5,
        seed: int = 0,
        overrides: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        status: str = "finished",
        error: str | None = None,
        **metrics: float,
    ) -> Path:
        """`accuracy`: val/acc of the best epoch, or of each epoch; `metrics`: `test_acc` is `test/acc`."""
        curve = [accuracy] if isinstance(accuracy, float) else list(accuracy)
        own = {"checkpoint.monitor": "val/acc", "checkpoint.mode": None, "seed": seed, **(config or {})}
        run = RunDirectory(tmp_path / "sweep" / name / f"seed={seed}")
        run.write_config("", [*overrides, f"seed={seed}"])
        run.write_history(
            [
                {
                    "epoch": i,
                    "phase": "head" if i < 2 else "all",
                    "val/acc": value,
                    "val/loss": 1 - value,
                    "seconds": 1,
                }
                for i, value in enumerate(curve)
            ]
        )
        phases = [
            {"name": "head", "start": 0, "epochs": 2, "trained": ["head"], "seconds": 2, "images_per_second": 9000},
            {
                "name": "all",
                "start": 2,
                "epochs": 2,
                "trained": ["stem", "head"],
                "seconds": 2,
                "images_per_second": 90,
            },
        ]
        record = {
            "status": status,
            "error": error,
            "config": nested(own),
            "seed": seed,
            "ended": "2026-01-01T00:00:00+0000",
            "class_names": list(CLASSES),
            "parameters": {"stem": 900, "layer1": 5000, "head": 100},
            "phases": phases,
        }
        run.record_file.write_text(json.dumps(record))
        if status == "finished":
            best = max(curve)
            kept = {"val/acc": best, "val/loss": 1 - best, "best_epoch": curve.index(best), "epochs": len(curve)}
            kept |= {"fit_seconds": float(len(curve))} | {key.replace("_", "/", 1): v for key, v in metrics.items()}
            run.metrics_file.write_text(json.dumps(kept))
            right = round(10 * best)
            run.write_confusion(
                "val",
                [
                    {"label": "cat", "prediction": "cat", "count": right},
                    {"label": "cat", "prediction": "dog", "count": 10 - right},
                    {"label": "dog", "prediction": "dog", "count": 10},
                ],
            )
        return run.path

    return make


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Where `make_run` writes."""
    return tmp_path / "sweep"
