"""One trial: an ordinary run for each seed, the first of which may be pruned."""

import logging
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig
from optuna.trial import TrialState

from tlab.config.hydra import compose, with_origin_only
from tlab.config.overrides import as_override
from tlab.config.safe_loading import check_targets
from tlab.config.targets import with_present_targets
from tlab.core.error_messages import one_line
from tlab.core.errors import RunDirectoryConflict
from tlab.data.decode_options import options_of
from tlab.runs.data_check import check_images, warn_of
from tlab.runs.directory import RunDirectory
from tlab.search.pruner import StudyPruner
from tlab.search.space import Value
from tlab.search.study import STUDY_FILE, Study, TrialLease

if TYPE_CHECKING:
    from tlab.runs.pruning import Pruning

Train = Callable[[DictConfig, list[str], "Pruning | None"], dict[str, float]]

LOG_LINE = "[%(asctime)s][%(name)s][%(levelname)s] %(message)s"  # as in conf/hydra/job_logging/tlab.yaml


def check_trials(study: Study, resume: str) -> None:
    """Refuse to resume a study over other images than its last trial had.

    Args:
        study: Study to resume.
        resume: The key `resume`; `anyway` only warns.

    Raises:
        RunDirectoryConflict: The images differ.
    """
    runs = [RunDirectory(file.parent) for file in sorted(study.directory.glob("trial=*/seed=*/run.json"))]
    last = next((run for run in reversed(runs) if "data" in run.record), None)
    values = {study.trial_directory(trial.number): trial.params for trial in study.trials()}
    if last is not None and last.path.parent in values:
        _, cfg = _compose(study, values[last.path.parent], last.path.name, last.path)
        source, options = instantiate(cfg.data.module.source, _convert_="all"), options_of(cfg.data)
        warn_of(check_images(last, source, resume, "another study=NAME", options))


def run_trial(study: Study, lease: TrialLease, train: Train) -> None:
    """Run a trial, or what is left of it, and report its result to the study.

    Only the first seed's run may be pruned: a trial that survives it runs with all seeds, so every value that is
    compared is a mean over the same seeds.

    Args:
        study: Study of the trial.
        lease: Lease of the trial.
        train: The function `tlab.train.train`.

    Raises:
        RunDirectoryConflict: The images differ, or another process is at work on the run, which stays as it is.
    """
    if (duplicate := study.duplicate(lease)) is not None:
        for step, value in duplicate.intermediate_values.items():
            lease.trial.report(value, step)
        lease.trial.set_user_attr("twin", duplicate.number)
        study.optuna.tell(
            lease.trial, duplicate.value if duplicate.state == TrialState.COMPLETE else None, duplicate.state
        )
        return
    monitor, values = study.definition.monitor, list[float]()
    for seed in study.definition.seeds:
        directory = lease.directory / f"seed={seed}"
        try:
            metrics = _run(study, lease, train, seed, directory, judged=not values)
        except RunDirectoryConflict:
            raise
        except Exception as error:
            RunDirectory(directory).record_failure(error)
            lease.trial.set_user_attr("error", one_line(error))
            study.optuna.tell(lease.trial, state=TrialState.FAIL)
            return
        if metrics is None:
            study.optuna.tell(lease.trial, state=TrialState.PRUNED)
            return
        values.append(metrics[monitor])
    lease.trial.set_user_attr("values", values)
    study.optuna.tell(lease.trial, statistics.fmean(values))


def _run(
    study: Study, lease: TrialLease, train: Train, seed: int, directory: Path, judged: bool
) -> dict[str, float] | None:
    """Return the metrics of the run with this seed; None where it was pruned."""
    from tlab.runs.pruning import Pruning

    if RunDirectory(directory).status == "pruned":  # by a process that died before it could report it
        return None
    given, cfg = _compose(study, lease.values, f"seed={seed}", directory)
    pruner = StudyPruner(lease.trial)
    with _logged_to(directory / "train.log"):
        metrics = train(cfg, given, Pruning(study.definition.monitor, pruner) if judged else None)
    return None if RunDirectory(directory).status == "pruned" else metrics


def _compose(study: Study, values: dict[str, Value], seed: str, directory: Path) -> tuple[list[str], DictConfig]:
    """Return the overrides of a trial's run, and its configuration, which builds nothing but `study.targets`."""
    given = [*study.space.overrides(values), seed]
    cfg = with_present_targets(
        with_origin_only(
            compose([*given, as_override("run_dir", directory), as_override("sweep", study.name)], with_hydra=True)
        )
    )
    if study.targets is not None:
        check_targets(cfg, study.targets, study.directory / STUDY_FILE)
    return given, cfg


@contextmanager
def _logged_to(file: Path) -> Iterator[None]:
    """Send what a run says to its own log instead of the terminal and the study's log; warnings go to all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    levels = {handler: handler.level for handler in root.handlers}
    own = logging.FileHandler(file, encoding="utf-8")
    own.setFormatter(logging.Formatter(LOG_LINE))
    for handler in levels:
        handler.setLevel(max(handler.level, logging.WARNING))
    root.addHandler(own)
    try:
        with redirect_stdout(own.stream):
            yield
    finally:
        root.removeHandler(own)
        own.close()
        for handler, level in levels.items():
            handler.setLevel(level)
