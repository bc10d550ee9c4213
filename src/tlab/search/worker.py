"""A worker takes trials of a study one after the other; several of them are started by Hydra's launchers."""

import logging
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from tlab.errors import UserError
from tlab.search.study import Study
from tlab.search.trial import Train, carry_out

log = logging.getLogger(__name__)

FAILURES = 3  # of the first trials, after which a study is given up


def work(study: Study, train: Train, minutes: float | None, wanted: Callable[[], bool] = lambda: True) -> None:
    """Carry out trials until the budget is spent.

    Args:
        study: Of which trials are taken.
        train: `tlab.train.train`.
        minutes: After which no other trial is begun; those under way are finished. None: no limit.
        wanted: Asked before each trial, whether another one is still wanted.

    Raises:
        UserError: The first trials failed, all of them.
    """
    start = time.monotonic()
    while wanted() and (minutes is None or time.monotonic() - start < 60 * minutes):
        with study.claim() as claim:
            if claim is None:
                return
            number = claim.trial.number
            if claim.continued:
                log.info("trial %d goes on", number)
            outcome = carry_out(study, claim, train)
        best = study.best()
        shown = "" if best is None or best.number == number else f"  (best {best.value:.4f}, trial {best.number})"
        chosen = " ".join(study.space.overrides(claim.values)[len(study.space.fixed) :])
        log.info("trial %d of %d  %s  %s%s", number, study.definition.trials, outcome, chosen, shown)
        failed = study.trials("FAIL")
        if len(failed) >= FAILURES and not study.trials("COMPLETE", "PRUNED"):
            raise UserError(
                f"the first {len(failed)} trials failed, the last one so: {failed[-1].user_attrs.get('error')}; "
                f"mend it and give another study=NAME"
            )


def launch(task: Callable[[DictConfig], str | None], workers: int) -> None:
    """Call `task` in so many processes by the launcher that the command names, and wait for them.

    Args:
        task: Takes the command's configuration with another `worker`, and returns the mistake that it met, if any.
        workers: How many.

    Raises:
        UserError: Of a worker.
        RuntimeError: A worker failed otherwise.
    """
    hydra: Any = GlobalHydra.instance().hydra
    given = HydraConfig.get().overrides
    config = hydra.compose_config(
        config_name=HydraConfig.get().job.config_name,
        overrides=[*given.hydra, *given.task],
        run_mode=RunMode.MULTIRUN,
        with_log_configuration=False,
    )
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
    logging.getLogger("hydra_plugins").setLevel(logging.WARNING)
    launcher = Plugins.instance().instantiate_launcher(context, task, config)
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that workers end too
    try:
        results = launcher.launch([[*given.task, f"worker={n}"] for n in range(workers)], initial_job_idx=0)
    finally:
        signal.signal(signal.SIGTERM, before)
    for result in results:
        if result.status != JobStatus.COMPLETED:
            raise RuntimeError("a worker failed") from result._return_value
        if result.return_value is not None:
            raise UserError(result.return_value)
