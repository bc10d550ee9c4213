"""The runs that a run is compared with: the same command with other overrides (`baseline.NAME`)."""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from tlab.config.head_solver import as_overrides_ask
from tlab.config.hydra import compose
from tlab.config.overrides import as_override, of_baseline
from tlab.config.provenance import command_overrides
from tlab.config.unused_keys import Run, check_used
from tlab.config.validation import check
from tlab.runs.directory import RunDirectory

log = logging.getLogger(__name__)


def compose_baselines(cfg: DictConfig) -> dict[str, DictConfig]:
    """Return the configurations of the runs to compare with.

    Raises:
        UserError: A mistake in one of them, or the command line gives a key that no run of it uses.
    """
    check(cfg)
    given = {name: of_baseline(command_overrides(), changes) for name, changes in cfg.baseline.items()}
    others = {}
    for name, own in given.items():
        other = compose([*own, as_override("run_dir", f"{cfg.run_dir}/baselines/{name}")])
        check(other)
        others[name] = as_overrides_ask(other, own)
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:  # a sweep has checked all of its runs
        this = Run(cfg, hydra.runtime.choices, alone=True)
        baselines = (Run(other, {}, given[name]) for name, other in others.items())
        begun = RunDirectory(Path(cfg.run_dir)).overrides()
        for remark in check_used(hydra.overrides.task, [this], baselines, begun):
            log.info(remark)
    return others
