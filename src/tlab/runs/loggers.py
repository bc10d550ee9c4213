"""Loggers besides TensorBoard; a run has one entry in MLflow and Weights & Biases, however often it is resumed."""

import functools
import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlab.core.error_messages import one_line
from tlab.core.errors import UserError
from tlab.core.processes import first_process_first
from tlab.core.text import as_text

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

log = logging.getLogger(__name__)

RUN_TAG = "tlab.run_dir"  # tag by which a resumed run finds its entry


def short_name(run_dir: str | Path) -> str:
    """Return what a run is called beside others: its folder, in a sweep or a search with the one above."""
    path = Path(as_text(str(run_dir)))
    return f"{path.parent.name}/{path.name}" if path.name.startswith("seed=") else path.name


def outlasted(logger: "Logger", name: str) -> "Logger":
    """Return a logger that a run outlasts: where it raises anything, that is logged, and it is asked no more.

    Args:
        logger: The logger, whose methods are replaced.
        name: Its key in the configuration.
    """
    gone = False

    def guarded(method: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(method)
        def call(*arguments: Any, **options: Any) -> None:
            nonlocal gone
            try:
                if not gone:
                    method(*arguments, **options)
            except Exception as error:
                gone = True
                log.warning("the logger %s failed (%s), and the run goes on without it", name, one_line(error))

        return call

    for method in ("log_metrics", "log_hyperparams", "log_graph", "save", "after_save_checkpoint", "finalize"):
        setattr(logger, method, guarded(getattr(logger, method)))
    return logger


def mlflow_logger(run_dir: str, tracking_uri: str, experiment_name: str) -> "MLFlowLogger":
    """Return the logger that writes to an MLflow store, a local file or a server.

    Args:
        run_dir: Absolute path of the run's directory; identifies the entry.
        tracking_uri: URI of the store, such as `sqlite:///outputs/mlflow.db` or `http://host:5000`.
        experiment_name: Name of the experiment, which is created if it does not exist.

    Raises:
        UserError: MLflow is not installed, or the store cannot be opened.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # else a lost server holds the run for minutes
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise missing("mlflow", "mlflow-skinny") from error
    from lightning.pytorch.loggers import MLFlowLogger

    run_dir = as_text(run_dir)
    for name in ("alembic", "mlflow"):  # they log every table that they create
        logging.getLogger(name).setLevel(logging.WARNING)
    if tracking_uri.startswith("sqlite:///"):
        Path(tracking_uri.removeprefix("sqlite:///")).absolute().parent.mkdir(parents=True, exist_ok=True)
    with first_process_first():  # one process creates a new store
        try:
            client = MlflowClient(tracking_uri)
            experiment = _experiment(client, experiment_name)
            quoted = run_dir.replace("'", "\\'")
            found = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{quoted}'", max_results=1)
        except MlflowException as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"logger.mlflow.tracking_uri={tracking_uri} cannot be used ({reason})") from error
        return MLFlowLogger(
            experiment_name=experiment_name,
            tracking_uri=tracking_uri,
            run_name=short_name(run_dir),
            run_id=found[0].info.run_id if found else None,
            tags={RUN_TAG: run_dir},
        )


def wandb_logger(run_dir: str, project: str, mode: str) -> "WandbLogger":
    """Return the logger that writes for Weights & Biases into the run's directory.

    Args:
        run_dir: Absolute path of the run's directory; identifies the entry.
        project: Name of the Weights & Biases project.
        mode: `offline` writes files that `wandb sync` uploads; `online` uploads at once.

    Raises:
        UserError: Weights & Biases is not installed, or there is no such mode.
    """
    if mode not in ("offline", "online"):
        raise UserError(f"logger.wandb.mode={mode} is not one of offline, online")
    try:
        import wandb
    except ImportError as error:
        raise missing("wandb", "wandb") from error
    from lightning.pytorch.loggers import WandbLogger

    if wandb.run is not None:  # the sweep's previous run is still open
        wandb.finish()
    logger = WandbLogger(
        name=short_name(run_dir),
        save_dir=run_dir,
        project=project,
        id=hashlib.sha256(os.fsencode(run_dir)).hexdigest()[:12],
        mode=mode,
        settings=wandb.Settings(silent=True, console="off"),
    )
    logger._wandb_init.pop("anonymous", None)  # which wandb warns of, also where it says nothing
    try:
        if mode == "online":
            _ = logger.experiment  # where there is no key or no network, that shows at once
    except wandb.Error as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"logger.wandb.mode=online cannot be used ({reason}); give wandb login, or logger.wandb.mode=offline"
        ) from error
    return logger


def log_settings(loggers: "Sequence[Logger]", settings: Mapping[str, Any]) -> None:
    """Log the settings when a run begins; TensorBoard gets them with the result, see `log_hparams`."""
    for logger in _others(loggers):
        logger.log_hyperparams(dict(settings))


def log_final(loggers: "Sequence[Logger]", metrics: Mapping[str, float], step: int) -> None:
    """Log the metrics of the best epoch as `final/<name>`."""
    for logger in _others(loggers):
        logger.log_metrics({f"final/{name}": value for name, value in metrics.items()}, step)
        logger.save()


def missing(logger: str, package: str) -> UserError:
    """Return the error for a logger's package that is not installed."""
    return UserError(f"logger={logger} needs a package that is not installed: pip install {package}")


def _others(loggers: "Sequence[Logger]") -> "list[Logger]":
    from lightning.pytorch.loggers import TensorBoardLogger

    return [logger for logger in loggers if not isinstance(logger, TensorBoardLogger)]


def _experiment(client: Any, name: str) -> str:
    """Return the id of an experiment, created if it does not exist; another process may create it meanwhile."""
    from mlflow.exceptions import MlflowException

    if (experiment := client.get_experiment_by_name(name)) is not None:
        return experiment.experiment_id
    try:
        return client.create_experiment(name)
    except MlflowException:
        if (experiment := client.get_experiment_by_name(name)) is None:
            raise
        return experiment.experiment_id
