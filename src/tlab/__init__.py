"""tlab: transfer learning on image folders, compared honestly.

    import tlab

    cfg = tlab.compose("data.root=photos", "backbone=resnet18", "trainer.max_epochs=5")
    run = tlab.fit(cfg)                                  # the metrics: run["val/acc"], run["val/loss"]
    model = tlab.load(run)                               # or a run's directory
    print(model.classes)
    for prediction in model.predict("new_photos"):
        print(prediction.label, prediction.probability)
    features = model.features("new_photos", upto="layer3")
    comparison = tlab.compare_runs("outputs/runs")

Importing this package is cheap: torch is imported by the functions that need it.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tlab.core.errors import UserError
from tlab.core.lazy_imports import INHERITED, defer_heavy_imports

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from tlab.comparison.result import Comparison
    from tlab.runs.finished_run import FinishedRun
    from tlab.runs.trained_model import TrainedModel

__version__ = "0.1.0"
__all__ = ["compare_runs", "compose", "fit", "load"]

if INHERITED in os.environ:  # a process that a command or a run has started
    defer_heavy_imports()


def compose(*overrides: str | Sequence[str], config_name: str = "train") -> "DictConfig":
    """Return the configuration that a command would compose from these overrides.

    A run's directory is chosen as on the command line, unless `run_dir=DIR` or `hydra.run.dir=DIR` gives one.

    Args:
        overrides: Overrides as on the command line, one by one or as a list: `data.root=photos`, `backbone=vgg16`.
        config_name: The command: train, evaluate, predict, compare or tune.

    Raises:
        HydraException, OmegaConfBaseException: A key or a choice does not exist, or a value has the wrong type.
        UserError: A value is out of its bounds.
    """
    from tlab.config.head_solver import as_overrides_ask
    from tlab.config.hydra import compose_in_python
    from tlab.config.overrides import tidy

    listed: list[str] = []
    for each in overrides:
        several = isinstance(each, Iterable) and not isinstance(each, str | Mapping)
        listed.extend(each if several else [each])  # type: ignore[list-item]  # which is looked at next
    if not all(isinstance(one, str) for one in listed):
        raise UserError('tlab.compose takes overrides as texts, such as tlab.compose("data.root=photos")')
    cfg = compose_in_python(listed, config_name)
    return as_overrides_ask(cfg, tidy(listed, sweep=False)) if config_name == "train" else cfg


def fit(cfg: "DictConfig") -> "FinishedRun":
    """Train and test the run of a configuration; resume it where it has begun, return its result where it is over.

    Its record says what it was composed from, as if typed, values set in the configuration since then included.

    Args:
        cfg: Configuration of `compose`.

    Raises:
        UserError: A mistake in the configuration or the data.
    """
    from omegaconf import DictConfig

    from tlab.config.provenance import with_later_changes
    from tlab.runs.continuation import telling_how_to_resume
    from tlab.runs.directory import RunDirectory
    from tlab.runs.finished_run import FinishedRun
    from tlab.train import train

    if not isinstance(cfg, DictConfig):
        raise UserError('tlab.fit takes a configuration; make it with tlab.compose("data.root=DIR")')
    if "hydra" in cfg:
        cfg = with_later_changes(cfg, compose)
    with telling_how_to_resume(RunDirectory(Path(cfg.run_dir))):
        return FinishedRun(train(cfg), Path(cfg.run_dir).absolute())


def load(run: "str | os.PathLike[str]", trust: bool = False, accelerator: str = "auto") -> "TrainedModel":
    """Return the model of a run, with its best weights, or those of its refit.

    Args:
        run: What `fit` returned, the directory of a run, or a checkpoint, such as its `checkpoints/best.ckpt`.
        trust: Whether to build whatever the file names as backbone and head, which may run any code.
        accelerator: What computes: `auto` (the first GPU, else the CPU), `cpu`, `gpu`, `cuda` or `mps`.

    Raises:
        UserError: There is no checkpoint, or it is none of tlab's.
    """
    from tlab.runs.load import load_trained
    from tlab.runs.trained_model import TrainedModel

    if not isinstance(run, str | os.PathLike) or not os.fspath(run):
        raise UserError(f"tlab.load takes a run, its directory or a checkpoint, which {run!r:.40} is not")
    return TrainedModel(load_trained(Path(run).expanduser(), trust), accelerator)


def compare_runs(directory: "str | os.PathLike[str]", monitor: str | None = None) -> "Comparison":
    """Compare the runs in and below a directory, without printing or writing anything.

    Args:
        directory: A sweep, any folder of runs, or one run.
        monitor: Metric that decides; None takes the runs' own `checkpoint.monitor`.

    Raises:
        UserError: There is no run, or no finished run has the metric.
    """
    from tlab.comparison.compare import compare_runs

    if not isinstance(directory, str | os.PathLike) or not os.fspath(directory):
        raise UserError(f"tlab.compare_runs takes a run, or a folder of runs, which {directory!r:.40} is not")
    return compare_runs(Path(directory).expanduser(), monitor)
