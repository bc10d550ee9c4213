"""Advice before training: `python -m tlab.advise data.root=DIR backbone=a,b`."""

import copy
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from tlab.command import quiet, run_command
from tlab.config.hydra import compose, config_dirs
from tlab.config.overrides import as_override, given_keys, key_and_value
from tlab.config.run_overrides import gather
from tlab.config.schema import AdviseConfig
from tlab.config.validation import check, check_values
from tlab.core.errors import DownloadFailed, UserError
from tlab.core.text import as_text, shell_command, short_path

if TYPE_CHECKING:  # torch is imported when the work begins, not for --help
    from tlab.advising.advice import Measured
    from tlab.advising.candidates import Candidate
    from tlab.advising.choice import Constants
    from tlab.data.datamodule import ImageDataModule

OWN_KEYS = AdviseConfig.__dataclass_fields__
USUAL_PLACE = Path("outputs/advice")


def compose_run(candidate: "Candidate", constants: "Constants", directory: Path) -> DictConfig:
    """Return the configuration of a run with a candidate, checked.

    Raises:
        UserError: No run could have it.
    """
    given = {*given_keys(candidate.others)}
    epochs = [] if "trainer.max_epochs" in given else [f"trainer.max_epochs={constants.epochs}"]
    cfg = compose([*candidate.overrides, *epochs, as_override("run_dir", directory)])
    check(cfg)
    shortest = (cfg.finetune.head_epochs or 0) + 1
    if cfg.trainer.max_epochs < shortest:
        raise UserError(
            f"trainer.max_epochs={cfg.trainer.max_epochs} is too short for lp_ft, one of the plans to choose from; "
            f"give trainer.max_epochs={shortest} or more"
        )
    return cfg


def check_weights(candidate: "Candidate", cfg: DictConfig) -> None:
    """Refuse a backbone whose weights cannot be had.

    Raises:
        UserError: They cannot; of a download that failed with the command that takes those at hand.
    """
    from tlab.assembly.build import build_backbone

    try:
        build_backbone(cfg)
    except DownloadFailed as error:
        kept = [other for other in candidate.others if not key_and_value(other)[0].startswith("backbone.")]
        command = shell_command(["python", "-m", "tlab.advise", *config_dirs(sys.argv[1:]), *kept])
        raise DownloadFailed(f"{error}; for advice on those at hand: {command}") from error


def measure_each(
    candidates: "list[Candidate]", runs: list[DictConfig], constants: "Constants"
) -> "tuple[list[Measured], ImageDataModule]":
    """Measure every candidate, and return what was found with the images."""
    from tlab.advising.advice import measured
    from tlab.advising.evidence import LEARNED_FROM, check_classes, gather_evidence
    from tlab.advising.image_size import choose_image_size
    from tlab.assembly.frozen_features import open_images

    for candidate, cfg in zip(candidates, runs, strict=True):  # before the first one is measured
        check_weights(candidate, cfg)
    data = open_images(runs[0])
    check_classes(data, (sample.label for split in LEARNED_FROM for sample in data.index.splits.get(split, ())))
    found = []
    for candidate, cfg in zip(candidates, runs, strict=True):
        cfg.data.image_size, why = choose_image_size(cfg, data)
        data = copy.copy(data)  # opened again, it would say again what it has left aside
        data.image_size = cfg.data.image_size
        evidence = gather_evidence(cfg, data)
        found.append(measured(candidate, cfg, data, evidence, why, constants))
    return found, data


def run(cfg: DictConfig) -> None:
    """Measure the backbones, print the advice and keep it; the last line is the command that carries it out."""
    check_values(cfg, AdviseConfig)
    from rich.console import Console

    from tlab.advising.candidates import read_candidates
    from tlab.advising.choice import Constants
    from tlab.advising.terminal import print_choice, print_measured
    from tlab.core.files import check_writable, write_text
    from tlab.core.hardware import prepare_training
    from tlab.runs.unique_directory import reserve_directory

    place = Path(cfg.output) if cfg.output is not None else USUAL_PLACE
    constants, candidates = Constants.read(), read_candidates(cfg.overrides)
    runs = [compose_run(candidate, constants, place) for candidate in candidates]
    check_writable(place, "give output=DIR")
    quiet()
    prepare_training()
    found, data = measure_each(candidates, runs, constants)
    console = Console()
    for one in found:
        print_measured(console, one)
    best = max(found, key=lambda one: one.chosen.expected.score)
    print_choice(console, best, constants)
    folder = place if cfg.output is not None else reserve_directory(place / f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    file, chosen = folder / "advice.json", best.chosen
    settings = [*best.settings, as_override("advice", file)]
    command = best.candidate.command(config_dirs(sys.argv[1:]), settings)
    advice: dict[str, Any] = {
        "root": as_text(str(data.index.root)),
        "content": data.contents().fingerprint(),
        "backbone": best.candidate.backbone,
        "plan": chosen.plan,
        "upto": chosen.upto,
        "rule": best.rule.plan,
        "expected": {"val/acc": {name: getattr(chosen.expected, name) for name in ("mean", "low", "high")}},
        "minutes": chosen.seconds / 60,
        "command": command,
        "measured": [one.plain() for one in found],
    }
    write_text(file, json.dumps(advice, indent=2, ensure_ascii=False) + "\n")
    console.print(f"advice     {short_path(file.absolute())}", soft_wrap=True, markup=False, highlight=False)
    print(command)  # the last line, to be pasted


def main() -> None:
    """Entry point of `python -m tlab.advise`."""
    run_command(run, "advise", lambda given: gather(given, OWN_KEYS, "tlab.advise"))


if __name__ == "__main__":
    main()
