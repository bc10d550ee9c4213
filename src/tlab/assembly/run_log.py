"""What a run says of itself: in its log, to its loggers, and in the summary that ends it."""

import logging
from collections.abc import Mapping
from pathlib import Path

import lightning.pytorch as L
from omegaconf import DictConfig
from rich.console import Console

from tlab.assembly.describe import settings, swept_keys
from tlab.config.overrides import given_keys
from tlab.core.error_messages import one_line
from tlab.dashboards.hparams import log_hparams
from tlab.dashboards.summary_table import print_summary_table
from tlab.finetuning.plan import Plan
from tlab.runs.advice import advice_sentence
from tlab.runs.directory import RunDirectory
from tlab.runs.loggers import log_final, log_settings, short_name

log = logging.getLogger(__name__)

FINAL = ("val/acc", "val/loss", "val/f1", "test/acc", "test/loss", "test/f1", "fit_seconds")  # in the HParams tab


def log_start(
    cfg: DictConfig, overrides: list[str], run: RunDirectory, trainer: L.Trainer, checkpoint: Path | None
) -> None:
    """Log the checkpoint that a run resumes from, or pass a new run's settings to its loggers."""
    if checkpoint is not None:
        log.info("resuming from %s", checkpoint)
    else:
        log_settings(trainer.loggers, settings(cfg, overrides, run.record.get("choices", {})))


def log_length(cfg: DictConfig, overrides: list[str], plan: Plan) -> None:
    """Log how long a run is, where that is not as long as its command says."""
    epochs = cfg.trainer.max_epochs
    if plan.epochs != epochs and "trainer.max_epochs" in given_keys(overrides):
        solved = any(phase.solved for phase in plan.phases)
        why = "the head is solved in one epoch" if solved else "its phases have their own epochs"
        log.info("trainer.max_epochs=%d: the plan takes %d, since %s", epochs, plan.epochs, why)


def log_result(
    cfg: DictConfig, overrides: list[str], run: RunDirectory, trainer: L.Trainer, metrics: dict[str, float]
) -> None:
    """Pass the final metrics and the settings to the loggers; warn where one does not take them."""
    shown = settings(cfg, overrides, run.record.get("choices", {}))
    tests = [f"test/{name}/acc" for name in cfg.data.get("tests") or {}]
    final = {name: metrics[name] for name in (*FINAL, *tests) if name in metrics}
    swept = swept_keys(run.path, overrides)
    try:
        log_hparams(trainer.loggers, shown, final, trainer.global_step, swept, short_name(run.path))
        log_final(trainer.loggers, final, trainer.global_step)
    except Exception as error:  # a server may be away by now; the run is complete without it
        log.warning("a logger has not taken the final metrics (%s); metrics.json has them", one_line(error))


def print_summary(
    run: RunDirectory, metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]
) -> None:
    """Print what a finished run gave, beside its baselines, and where it lies.

    Args:
        run: The run's directory.
        metrics: Contents of its `metrics.json`.
        baselines: Name -> those of a run that it is compared with.
    """
    if not run.used.exists():
        log.warning("%s is gone; to have one, train the run in another hydra.run.dir=DIR", run.used)
    advice = run.record.get("advice", {})
    print_summary_table(
        Console(),
        metrics,
        run.record["phases"],
        {
            "run": run.path,
            **({"best checkpoint": run.selected} if run.selected.exists() else {}),
            **({"refit checkpoint": run.refit} if run.is_refitted else {}),
            "history": run.history_file,
        },
        {"this run": metrics, **baselines} if baselines else None,
        advice_sentence(advice) if "kept" in advice else None,
        run.images(),
    )
