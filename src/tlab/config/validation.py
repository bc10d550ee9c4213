"""Checks of configuration values that need no torch."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf

from tlab.config.overrides import shell_argument
from tlab.config.schema import TrainConfig, keys
from tlab.core.errors import UserError
from tlab.core.files import is_device_or_pipe
from tlab.core.text import as_text, counted

NO_TESTS = ("train", "val", "test", "all", "acc_class")  # names of splits, and of metrics below test/


def check(cfg: DictConfig) -> None:
    """Refuse values that no run can have.

    Raises:
        UserError: A value is not allowed; names the first such key and what it may be.
    """
    if OmegaConf.is_missing(cfg.data, "root"):
        raise UserError(
            "data.root is not set; say where the images are with data.root=DIR, "
            "or take the built-in sample with data=demo"
        )
    if OmegaConf.is_missing(cfg.backbone, "name"):
        raise UserError("backbone.name is not set; give a model's name with backbone.name=NAME")
    if Path(str(cfg.sweep)).is_absolute():  # also what was typed as ~/NAME
        way_out = shell_argument("hydra.sweep.dir", cfg.sweep)
        raise UserError(f"sweep={cfg.sweep} is no name of a folder in outputs/multirun; give {way_out} instead")
    makes_its_own = cfg.data.source._target_.endswith(("demo_index", "torchvision_index"))
    is_gone = cfg.data.root is not None and not makes_its_own and not Path(cfg.data.root).expanduser().exists()
    if is_gone and not _has_result(cfg):
        raise UserError(
            f"data.root={cfg.data.root} does not exist; check the path (it is relative to {Path.cwd()})"
        )
    _check_tests(cfg.data.get("tests") or {}, _has_result(cfg))
    if not OmegaConf.is_dict(cfg.backbone.kwargs):
        raise UserError(
            f"backbone.kwargs={cfg.backbone.kwargs} is no mapping; give for example "
            "'backbone.kwargs={drop_path_rate: 0.1}'"
        )
    if cfg.optimizer.get("lr", 0) is None:
        raise UserError("optimizer.lr=null is not a number; give the head's peak learning rate")
    if cfg.trainer.strategy == "fsdp":
        raise UserError(
            "trainer.strategy=fsdp is not possible: it scatters the weights over the processes, while unfreezing "
            "stage by stage and the digests that prove it need them whole; take trainer=ddp"
        )
    if not OmegaConf.is_dict(cfg.loss) or not isinstance(cfg.loss.get("_target_"), str):
        raise UserError("loss has no _target_ that builds it; choose loss=cross_entropy, or give your file one")
    for name, node in cfg.callbacks.items():
        if node is not None and not OmegaConf.is_dict(node):
            raise UserError(
                f"callbacks.{name}={node} says not how to build one; give for example "
                f"'callbacks.{name}={{_target_: lightning.pytorch.callbacks.Timer, duration: {{hours: 1}}}}'"
            )
    check_values(cfg, TrainConfig)
    check_folds(cfg.data.get("folds"), cfg.data.get("fold"))
    if cfg.finetune.l2_sp and cfg.finetune.pretrained and cfg.backbone.weights is None:
        raise UserError(
            f"finetune.l2_sp={cfg.finetune.l2_sp} decays towards pretrained weights, but backbone.weights=null has "
            "none; give backbone.weights, or finetune.l2_sp=0 and use optimizer.weight_decay"
        )
    if cfg.finetune.batchnorm == "estimated" and cfg.finetune.pretrained and cfg.backbone.weights is None:
        raise UserError(
            "finetune.batchnorm=estimated takes the place of pretrained statistics, but backbone.weights=null has "
            "none; give backbone.weights, or finetune.batchnorm=pretrained"
        )
    if cfg.refit and cfg.finetune.soup is not None:
        raise UserError(
            f"finetune.soup={cfg.finetune.soup} is mixed by validation images, of which refit=true leaves none; "
            "give finetune.soup=null, or refit=false"
        )
    if cfg.trainer.sync_batchnorm and cfg.trainer.devices * cfg.trainer.num_nodes == 1:
        raise UserError(
            "trainer.sync_batchnorm=true says nothing of one process; leave it out, or give trainer=ddp"
        )


def check_folds(folds: int | None, fold: int | None) -> None:
    """Refuse a fold that is none of the folds, and folds of which none is for validation.

    Raises:
        UserError: One is missing, or out of range.
    """
    check_value("data.folds", folds)
    check_value("data.fold", fold)
    if folds is None and fold is not None:
        raise UserError(
            f"data.fold={fold} needs data.folds, the number of folds; give data.folds={max(5, fold + 1)}"
        )
    if folds is not None and (fold is None or fold >= folds):
        every = ",".join(map(str, range(folds)))
        wrong = "needs data.fold, the one that is val" if fold is None else f"has no data.fold={fold}"
        raise UserError(f"data.folds={folds} {wrong}; give data.fold=0, or -m data.fold={every} for all")


def _has_result(cfg: DictConfig) -> bool:
    """Tell whether the run's directory holds a result, which needs no images."""
    directory = OmegaConf.select(cfg, "run_dir", throw_on_resolution_failure=False, throw_on_missing=False)
    return directory is not None and Path(directory, "metrics.json").exists()


def _check_tests(tests: Mapping[str, str], may_be_gone: bool) -> None:
    for name, root in tests.items():
        if not re.fullmatch(r"[\w-]+", str(name)) or name in NO_TESTS:
            raise UserError(
                f"data.tests: {name!r} cannot be a test's name, which has letters, digits, _ and - and is none of "
                f"{', '.join(NO_TESTS)}; give for example {shell_argument('data.tests', {'other': root})}"
            )
        if not may_be_gone and not Path(root).expanduser().is_dir():
            raise UserError(
                f"data.tests.{name}={root} is no folder; check the path (it is relative to {Path.cwd()})"
            )


def check_monitors(cfg: DictConfig, metrics: Sequence[str]) -> None:
    """Refuse to monitor a metric that the run will not have.

    Raises:
        UserError: A metric is unknown; lists the known ones.
    """
    watched = {"checkpoint.monitor": cfg.checkpoint.monitor, "scheduler.monitor": cfg.scheduler.get("monitor")}
    for name, phase in cfg.finetune.phases.items():
        watched[f"finetune.phases.{name}.until.monitor"] = phase.until.get("monitor") if phase.until else None
    for key, monitor in watched.items():
        if monitor is not None and monitor not in metrics:
            raise UserError(f"{key}={monitor} is not a metric of this run; there are {', '.join(metrics)}")


def best_is(monitor: str, mode: str | None = None) -> str:
    """Return `mode`, or else `min` or `max`: which of a metric's values is the best, by its name."""
    return mode or ("min" if monitor.endswith(("loss", "/nll", "/ece")) else "max")


def check_shares(images: Mapping[str, int], devices: int, nodes: int = 1) -> None:
    """Refuse a split of which some process would get no image.

    Args:
        images: Number of images of each split.
        devices: Number of processes on each node.
        nodes: Number of machines.

    Raises:
        UserError: A split has fewer images than there are processes.
    """
    for split, count in images.items():
        if count < devices * nodes:
            several = f" on trainer.num_nodes={nodes}" if nodes > 1 else ""
            raise UserError(
                f"trainer.devices={devices}{several} is too many for {counted(count, 'image')} of {split}; "
                f"give {'fewer of both' if several else f'trainer.devices={max(1, count)} or less'}"
            )


def check_values(cfg: DictConfig, command: type) -> None:
    """Check the values of a command's keys against the choices and bounds of its schema.

    Raises:
        UserError: A value is not allowed; names the first such key and what it may be.
    """
    for key, declared in keys(command).items():
        if declared.metadata["choices"] or any(bound is not None for bound in declared.metadata["bounds"]):
            check_value(key, OmegaConf.select(cfg, key), command)


def check_value(key: str, value: Any, command: type = TrainConfig) -> None:
    """Check the value of one key against the choices and bounds of its schema; null passes the bounds.

    Raises:
        UserError: The value is not allowed; names the key and what it may be.
    """
    declared = keys(command)[key]
    choices, (least, above, most) = declared.metadata["choices"], declared.metadata["bounds"]
    # 1 == True, but only true is a choice
    if choices and not any(value == choice and isinstance(value, type(choice)) for choice in choices):
        raise UserError(f"{key}={value} is not one of {', '.join(map(typed, choices))}")
    if value is None or (least, above, most) == (None, None, None):
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
        raise UserError(f"{key}={value} is not a number")
    if isinstance(value, float) and int in (declared.type, *get_args(declared.type)):
        raise UserError(f"{key}={value} is not a whole number")
    if key.startswith("trainer.limit_") and isinstance(value, float) and value > 1:
        raise UserError(f"{key}={value} is neither a whole number of batches nor a share of them up to 1.0")
    if key == "data.limit" and isinstance(value, float) and value >= 1:
        raise UserError(f"{key}={value} is neither a whole number of images nor a share of them below 1")
    if least is not None and value < least:
        raise UserError(f"{key}={value} is too small; give {key}={least:g} or more")
    if above is not None and value <= above:
        raise UserError(f"{key}={value} is too small; give more than {above:g}")
    if most is not None and value > most:
        raise UserError(f"{key}={value} is too large; give {key}={most:.12g} or less")


def typed(value: Any) -> str:
    """Return a value as typed on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def check_output(output: str, example: str, written: str) -> None:
    """Check that a command's `output` is a file, whose extension, if it has one, is that of what is written.

    Args:
        output: The value of `output`.
        example: Name of a file that could be written, which has the extension.
        written: What is written, for messages.

    Raises:
        UserError: It is a folder, or has another extension.
    """
    path, suffix = Path(output), Path(example).suffix
    if path.is_dir():
        way_out = f"is a folder; give the name of a file, such as {shell_argument('output', path / example)}"
    elif not path.suffix[1:2].isalpha() or path.suffix.lower() == suffix or is_device_or_pipe(path):
        return
    else:
        better = path.with_name(path.name.removesuffix(path.suffix).removesuffix(suffix) + suffix)
        way_out = f"names no {written}, which is what is written; give {shell_argument('output', better)}"
    raise UserError(f"output={as_text(output)} {way_out}")
