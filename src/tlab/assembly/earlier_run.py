"""What an earlier command has left in a run's directory: its result, or what of it is left to do."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from tlab.config.provenance import plain
from tlab.core.errors import ImagesGone
from tlab.core.processes import first_process
from tlab.core.text import few
from tlab.data.decode_options import options_of
from tlab.data.sources.evaluation_sources import fingerprints, sources_of_tests, without_missing
from tlab.data.sources.verify import CHECK_SECONDS
from tlab.runs.continuation import resumes_or_goes_on
from tlab.runs.data_check import TESTS_GONE, check_images, measured_tests, unmeasured, warn_of
from tlab.runs.directory import RunDirectory

log = logging.getLogger(__name__)


def earlier_result(
    run: RunDirectory, cfg: DictConfig, given: Sequence[str], node: int
) -> tuple[dict[str, float] | None, list[str]]:
    """Return the metrics of a run that has nothing left to do, else None, and how its images have changed.

    A finished run that lacks something it is asked for now, such as a refit or a further test, is opened again.

    Args:
        run: Directory of the run.
        cfg: The configuration that it is to be begun or resumed with.
        given: Overrides that `cfg` was composed from.
        node: Which of several nodes this is; the first looks whether the settings are the run's own.

    Raises:
        UserError: The run has other settings or other images, and `resume` does not let that pass.
    """
    way_out = partial(resumes_or_goes_on, run, cfg, given)
    finished = run.is_finished(plain(cfg), cfg.resume if node == 0 else "auto", way_out)
    if not finished and not run.has_begun:
        return None, []
    source, options = instantiate(cfg.data.module.source, _convert_="all"), options_of(cfg.data)
    try:
        seconds = cfg.data.get("check_seconds", CHECK_SECONDS)
        changed = check_images(run, source, cfg.resume, options=options, seconds=seconds)
        warn_of(changed)
    except ImagesGone as error:
        untested = {*(cfg.data.get("tests") or ())} - {*run.record.get("tests", ())}
        if not finished or untested or run.lacking(cfg):
            raise
        log.warning("%s is finished: this is its result, though its images are gone (%s)", run.path, error)
        return run.metrics(), []
    if not finished:
        return None, changed
    lacking = run.lacking(cfg)
    there, gone = without_missing(cfg.data.get("tests"), measured_tests(run))
    classes = run.record["class_names"]
    tests = [*unmeasured(run, fingerprints(sources_of_tests(source, there), classes))]
    if run.status == "finished" and not lacking and not tests:
        if gone and first_process():
            log.warning(TESTS_GONE, few(gone))
        log.info("%s is finished: this is its result, nothing was trained", run.path)
        return run.metrics(), changed
    if gone:  # which the rest of the run needs
        fingerprints(sources_of_tests(source, cfg.data.tests), classes)
    left = few([*lacking, *(f"the test {name}" for name in tests)])
    log.info("%s is trained: %s", run.path, f"only {left} is left to do" if left else "nothing is left to do")
    run.reopen(lacking, tests)
    return None, changed


def what_is_not_kept(run: RunDirectory) -> dict[str, Any]:
    """Return empty entries of run.json for what it may hold of other weights, where a run begins anew."""
    if run.has_begun:
        return {}
    empty: dict[str, Any] = dict.fromkeys(("temperature", "calibration"))
    empty |= {key: {} for key in ("soup", "tests", "refit", "advice", "decided")}
    return {key: value for key, value in empty.items() if key in run.record}
