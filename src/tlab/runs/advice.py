"""The advice that a run was given, which `tlab.advise` has written, and whether what the run measures keeps it."""

import json
import logging
import math
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from tlab.config.diff import differences, flat
from tlab.config.hydra import compose, config_dirs
from tlab.config.overrides import as_override, key_and_value, shell_argument
from tlab.config.provenance import plain
from tlab.core.error_messages import one_line
from tlab.core.errors import UserError
from tlab.core.text import few

if TYPE_CHECKING:
    from tlab.runs.directory import RunDirectory

log = logging.getLogger(__name__)

METRIC = "val/acc"
# Keys in which a run may differ from the advised command: what it draws, and where and how exactly it computes
OWN = ("seed", "trainer.accelerator", "trainer.precision", "trainer.compile")


def advice_of(cfg: DictConfig, run: "RunDirectory") -> dict[str, Any] | None:
    """Return the advice that a run has, to be noted in its record; None where it has none.

    A run keeps the advice that it began with, whether or not it is given again. With the advice stand `file`, where
    it was read, and `departs_in`, the keys in which the run is another than the advised one.

    Raises:
        UserError: The file is missing or damaged.
    """
    begun = run.is_trained or run.has_begun
    noted: dict[str, Any] | None = run.record.get("advice") if begun else None
    if cfg.advice is None:
        return noted
    file = Path(cfg.advice).expanduser().absolute()
    if noted is not None:
        if noted["file"] != str(file):
            log.warning("advice=%s is left aside: %s keeps that of %s", cfg.advice, run.path, noted["file"])
        return noted
    if run.is_trained:
        log.warning("advice=%s is left aside: %s was trained without it", cfg.advice, run.path)
        return None
    advice = _read(file)
    return {**advice, "file": str(file), "departs_in": _departures(file, advice["command"], cfg)}


def _read(file: Path) -> dict[str, Any]:
    """Return what `advice.json` holds, with an expected interval, the images' fingerprint and the command.

    Raises:
        UserError: It is missing or damaged.
    """
    try:
        advice = json.loads(file.read_text(encoding="utf-8"))
        interval = [advice["expected"][METRIC][name] for name in ("low", "high")]
        if not all(isinstance(each, float | int) and math.isfinite(each) for each in interval):
            raise ValueError(f"expected {METRIC} of {interval}")
        if not all(isinstance(advice[name], str) for name in ("content", "root", "command")):
            raise ValueError("content, root or command is no text")
    except OSError as error:
        raise UserError(
            f"{shell_argument('advice', file)} cannot be read ({error.strerror}); give the advice.json that "
            "tlab.advise has written, or leave advice out"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(file, error) from error
    return dict(advice)


def _damaged(file: Path, error: Exception) -> UserError:
    return UserError(
        f"{shell_argument('advice', file)} is damaged ({one_line(error)}); "
        "let tlab.advise write it again, or leave advice out"
    )


def _departures(file: Path, command: str, cfg: DictConfig) -> list[str]:
    """Return the keys in which a run's configuration differs from that of the advised command.

    What the command sets of Hydra itself is left out: the file may be a stranger's, and folders of more YAML files
    (`hydra.searchpath`) are those of this command line.
    """
    try:
        words = [word for word in shlex.split(command) if "=" in word and not word.startswith("-")]
        advised = [word for word in words if not _is_of_hydra(word)]
        folders = [word for word in config_dirs(sys.argv[1:]) if _is_of_hydra(word)]
        other = plain(compose([*folders, *advised, as_override("run_dir", cfg.run_dir)]))
    except (HydraException, OmegaConfBaseException, UserError, ValueError) as error:
        raise _damaged(file, error) from error
    this = plain(cfg)
    theirs, ours = flat(other), flat(this)
    changed = {key for key in differences(other, this) if theirs.get(key) != ours.get(key)}  # not what follows
    changed = {re.sub(r"^(\w+)\.(stages|phases|transforms|_target_)\b.*", r"\1", key) for key in changed}
    return sorted(key for key in changed if key not in OWN and key.partition(".")[0] not in changed - {key})


def _is_of_hydra(override: str) -> bool:
    """Tell whether an override sets a key, or fills a package, of Hydra itself."""
    return any(re.match(r"hydra\b", part) for part in key_and_value(override)[0].split("@"))


def check_advised_images(cfg: DictConfig, run: "RunDirectory", content: str) -> None:
    """Refuse advice that is of other images than those that the run has.

    Args:
        cfg: The run's configuration.
        run: The run's directory.
        content: Fingerprint of its images, as its record keeps it.

    Raises:
        UserError: The fingerprints differ.
    """
    advice = run.record.get("advice")
    if cfg.advice is not None and advice and advice["content"] != content:
        again = shell_argument("data.root", cfg.data.root or "DIR")
        raise UserError(
            f"{shell_argument('advice', cfg.advice)} is of other images, those of {advice['root']}; leave it out, "
            f"or give the advice of these: python -m tlab.advise {again}"
        )


def judged(record: Mapping[str, Any], metrics: Mapping[str, float]) -> dict[str, Any]:
    """Return the record's advice with what was `measured`, and whether it is `kept`; empty without advice.

    It is kept where the accuracy lies in the expected interval. That is one of what a run measures, so it allows
    for the chance that lies in the number of validation images (`Constants.expect` of `tlab.advising.choice`). A
    run that departs from the advised command, or went on over other images, has no verdict: `kept` is None.
    """
    advice = record.get("advice")
    if not advice:
        return {}
    expected = advice["expected"][METRIC]
    other = [] if advice["content"] == record["data"]["content"] else ["its images"]
    departs_in = [*(key for key in advice["departs_in"] if key not in other), *other]
    kept = None if departs_in else expected["low"] <= metrics[METRIC] <= expected["high"]
    return {"advice": {**advice, "departs_in": departs_in, "measured": {METRIC: metrics[METRIC]}, "kept": kept}}


def advice_sentence(advice: Mapping[str, Any]) -> str:
    """Return whether a finished run keeps its advice, in a sentence."""
    expected = advice["expected"][METRIC]
    interval = f"{expected['low']:.1%} to {expected['high']:.1%}"
    if advice["kept"] is None:
        return f"No verdict on the advice, which expects {interval}: the run departs in {few(advice['departs_in'])}"
    verdict = "kept" if advice["kept"] else "missed"
    return f"The advice is {verdict}: {METRIC} is {advice['measured'][METRIC]:.1%}, and {interval} was expected"
