"""The pretrained weights of a sweep's runs, fetched before the first of them trains."""

from collections.abc import Iterable, Iterator, Sequence

from omegaconf import DictConfig

from tlab.config.overrides import key_and_value
from tlab.config.safe_loading import TARGETS
from tlab.core.errors import DownloadFailed
from tlab.core.text import few
from tlab.runs.environment import command_with
from tlab.sweeps.composer import Composer
from tlab.sweeps.jobs import Job

DECIDING = ("backbone", "finetune", "experiment")  # groups that decide which weights a run begins with
CHOOSES_A_BACKBONE = "data"  # a choice of this group may
NEED_NO_NETWORK = (None, "bundled", "packaged")


def fetch_weights(jobs: Sequence[Job], composer: Composer) -> None:
    """Fetch the named weights that a sweep's runs begin with, see `fetch_weights_of`."""
    fetch_weights_of(_composed(_with_distinct_weights(jobs), composer), "sweep")


def fetch_weights_of(runs: Iterable[DictConfig], whole: str, needs_backbone: bool = False) -> None:
    """Fetch the named weights that runs begin with and that are not on this machine.

    Args:
        runs: Configurations of runs that have not begun.
        whole: What they are runs of: "sweep", "study".
        needs_backbone: Whether the command is of no use with one backbone alone.

    Raises:
        DownloadFailed: Some cannot be fetched; the message says it once, with the command that needs no network.
        UserError: A backbone has no model of its name.
    """
    lacking: dict[str, DownloadFailed] = {}
    seen = set()
    for run in runs:
        backbone = run.get("backbone")
        if backbone is None or backbone._target_ not in TARGETS["backbone"]:
            continue
        if backbone.weights in NEED_NO_NETWORK or not run.finetune.pretrained:
            continue
        if (wanted := (backbone.name, backbone.library, backbone.weights)) in seen:
            continue
        seen.add(wanted)
        from tlab.models import backbones  # which imports torch

        try:
            backbones.fetch_weights(*wanted)
        except DownloadFailed as error:
            lacking[backbone.name] = error
    if lacking:
        from tlab.models.packaged_weights import overrides_at_hand

        needs = few(f"{name}: {error.needs}" for name, error in lacking.items())
        other = command_with("backbone", overrides_at_hand())
        raise DownloadFailed(
            f"nothing is trained, since weights of this {whole} cannot be fetched ({needs})",
            "put the files there" + ("" if needs_backbone else f", or take weights that need no network: {other}"),
        )


def _composed(jobs: Sequence[Job], composer: Composer) -> Iterator[DictConfig]:
    for job in jobs:
        try:
            run = composer.look_at(job)
        except Exception:  # which the run itself will meet, and say
            continue
        yield run


def _with_distinct_weights(jobs: Sequence[Job]) -> list[Job]:
    """Return jobs of all weights that the runs begin with; a run that has begun needs none."""
    found: dict[tuple[str, ...], Job] = {}
    for job in jobs:
        keys = ((key_and_value(each)[0], each) for each in job.overrides)
        deciding = (each for key, each in keys if key == CHOOSES_A_BACKBONE or key.partition(".")[0] in DECIDING)
        if (key := tuple(deciding)) not in found and not job.run.has_begun:
            found[key] = job
    return list(found.values())
