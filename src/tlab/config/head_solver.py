"""Whether the phases of the head alone are solved at its optimum or trained by steps: `head.solver=auto`."""

import logging
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tlab.config.diff import AUTO, flat
from tlab.config.hydra import conf_dir
from tlab.config.overrides import given_keys
from tlab.config.provenance import with_value
from tlab.config.unused_keys import OF_STEPS, OF_TRAINER, trained_part

log = logging.getLogger(__name__)

SOLVED, STEPS = "lbfgs", "sgd"
HEAD = "tlab.models.head.Head"
CROSS_ENTROPY = "tlab.models.losses.CrossEntropy"
GROUPS = ("optimizer", "scheduler", "loss")  # that say how steps are taken, and towards what
ASKING = re.compile(r"(optimizer|scheduler|loss|head\.dropout|aug\.mix)(\..+)?|finetune\.phases\..+\.until(\..+)?")
PHASE = re.compile(r"finetune\.phases\.[^.]+\.train")


def solver(cfg: DictConfig) -> str:
    """Return `head.solver`; of the configuration of an earlier version `sgd`, which was all there was."""
    return str(cfg.head.get("solver", STEPS))


def head_phases(cfg: DictConfig) -> dict[str, DictConfig]:
    """Return the phases that take place and train the head alone."""
    return {name: phase for name, phase in _phases(cfg).items() if trained_part(phase.train) == "head"}


def only_heads_train(cfg: DictConfig) -> bool:
    """Tell whether no phase that takes place trains more than the head."""
    return head_phases(cfg).keys() == _phases(cfg).keys()


def _phases(cfg: DictConfig) -> dict[str, DictConfig]:
    return {str(name): phase for name, phase in cfg.finetune.phases.items() if phase and phase.epochs != 0}


def as_overrides_ask(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Return the configuration with `sgd` in place of `auto` where overrides name a key that only steps use.

    Args:
        cfg: A run's configuration.
        overrides: Overrides that it was composed from, as far as they are known.
    """
    key = _asking_key(overrides) if solver(cfg) == AUTO else None
    return cfg if key is None else by_steps(cfg, f"{key} is given")


def _asking_key(overrides: Sequence[str]) -> str | None:
    return next((key for key in given_keys(overrides) if ASKING.fullmatch(key)), None)


def as_values_ask(cfg: DictConfig) -> DictConfig:
    """Return the configuration with `sgd` in place of `auto` where its values need steps, or nothing is solved.

    So do the keys of `as_overrides_ask` with unusual values, from an experiment or set in Python.
    """
    if solver(cfg) != AUTO:
        return cfg
    reason = _reason_of_values(cfg)
    return cfg if reason is None and head_phases(cfg) else by_steps(cfg, str(reason))


def _reason_of_values(cfg: DictConfig) -> str | None:
    unusual = next(_unusual(cfg), None)
    later = next((name for name in head_phases(cfg) if name != next(iter(_phases(cfg)))), None)
    reason = unsolvable(cfg) if unusual is None else f"{unusual} is given"
    if reason is None and later is not None:  # whether its features are stored would show too late
        reason = f"finetune.phases.{later} trains the head alone after another phase"
    return reason


def settings_ask_for_steps(cfg: DictConfig, overrides: Sequence[str]) -> bool:
    """Tell whether the head takes steps whatever the data are, as both functions above decide, without a log."""
    if solver(cfg) != AUTO:
        return solver(cfg) == STEPS
    return _asking_key(overrides) is not None or _reason_of_values(cfg) is not None


def by_steps(cfg: DictConfig, reason: str) -> DictConfig:
    """Return the configuration with `head.solver=sgd`; the log says why, if there is a phase of the head alone."""
    if head_phases(cfg):
        log.info("head: trained by steps, since %s (head.solver=auto)", reason)
    return with_value(cfg, "head.solver", STEPS)


def unsolvable(cfg: DictConfig) -> str | None:
    """Return why the head's optimum is not that of a convex problem on stored features; None if it may be."""
    phases = head_phases(cfg)
    hidden, target = list(cfg.head.get("hidden") or []), cfg.head.get("_target_")
    until = next((name for name, phase in phases.items() if phase.until), None)
    smoothed = cfg.loss._target_ != CROSS_ENTROPY or cfg.loss.get("label_smoothing", 0) > 0
    limited = cfg.trainer.limit_train_batches is not None or cfg.trainer.limit_val_batches is not None
    reasons = {
        f"head._target_={target} is another head than {HEAD}": target != HEAD,
        f"head.hidden={hidden} makes the head more than one layer": hidden,
        "features.cache=off keeps no features": cfg.features.cache == "off",
        "trainer.limit_train_batches or limit_val_batches is set, so no features are kept": limited,
        "finetune.ema averages over steps": cfg.finetune.ema is not None,
        "loss is another than cross-entropy without label smoothing": smoothed,
        f"finetune.phases.{until}.until ends a phase of several epochs": until is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def with_solver_in_effect(config: dict[str, Any]) -> dict[str, Any]:
    """Return a run's flat configuration with `head.solver` only if it has phases of the head alone.

    And without it where the run has not decided yet. Earlier versions had no such key: their heads took steps.
    """

    def epochs(phase: str) -> Any:
        value = config.get(f"{phase}.epochs")
        return config.get(value[2:-1]) if isinstance(value, str) else value  # "${finetune.head_epochs}"

    trains = {key.removesuffix(".train"): value for key, value in config.items() if PHASE.fullmatch(key)}
    alone = any(trained_part(value) == "head" and epochs(phase) != 0 for phase, value in trains.items())
    chosen = config.get("head.solver", STEPS)
    others = {key: value for key, value in config.items() if key != "head.solver"}
    return {**others, "head.solver": chosen} if alone and chosen != AUTO else others


def _unusual(cfg: DictConfig) -> Iterator[str]:
    """Yield the keys that concern steps and have other values than a command gets that gives none of them."""
    own: dict[str, Any] = {group: OmegaConf.to_container(cfg[group], resolve=True) for group in GROUPS}
    usual, held = _usual(), flat(own)
    yield from (key.removesuffix("._target_") for key in usual | held if held.get(key) != usual.get(key))
    if cfg.head.get("dropout") not in _usual_dropout(bool(cfg.head.get("normalize"))):
        yield "head.dropout"
    for name, phase in head_phases(cfg).items():
        yield from (f"finetune.phases.{name}.{key}" for key, value in OF_STEPS.items() if phase.get(key) != value)
    if only_heads_train(cfg):  # else the later phases use them
        yield from (key for key, value in OF_TRAINER.items() if OmegaConf.select(cfg, key) != value)


@cache
def _usual() -> dict[str, Any]:
    """Return the keys of the choices in conf/train.yaml, flat, with their values."""
    listed = OmegaConf.load(conf_dir() / "train.yaml").defaults
    choices = {group: choice for each in listed if OmegaConf.is_dict(each) for group, choice in each.items()}
    files = {group: conf_dir() / group / f"{choices[group]}.yaml" for group in GROUPS}
    return flat({group: OmegaConf.to_container(OmegaConf.load(file)) for group, file in files.items()})


@cache
def _usual_dropout(normalize: bool) -> set[float]:
    """Return the dropout of the linear heads in conf/head that do, or do not, standardize their features."""
    heads = [OmegaConf.load(file) for file in (conf_dir() / "head").glob("*.yaml")]
    return {head.dropout for head in heads if not head.hidden and head.normalize == normalize}
