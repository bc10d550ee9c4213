"""The pretrained weights of a sweep's runs, fetched before the first of them trains."""

from collections.abc import Sequence

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
    """Fetch the named weights that runs begin with and that are not on this machine.

    Raises:
        DownloadFailed: Some cannot be fetched; the message says it once, with the command of a sweep that needs no
            network.
        UserError: A backbone has no model of its name.
    """
    lacking: dict[str, DownloadFailed] = {}
    asked = set()
    for job in _with_distinct_weights(jobs):
        try:
            run = composer.look_at(job)
        except Exception:  # which the run itself will meet, and say
            continue
        backbone = run.get("backbone")
        if backbone is None or backbone._target_ not in TARGETS["backbone"]:
            continue
        if backbone.weights in NEED_NO_NETWORK or not run.finetune.pretrained:
            continue
        if (wanted := (backbone.name, backbone.library, backbone.weights)) in asked:
            continue
        asked.add(wanted)
        from tlab.models import backbones  # which imports torch

        try:
            backbones.fetch_weights(*wanted)
        except DownloadFailed as error:
            lacking[backbone.name] = error
    if lacking:
        from tlab.models.packaged_weights import weights_at_hand

        needs = few(f"{name}: {error.needs}" for name, error in lacking.items())
        choice, weights = next(iter(weights_at_hand().items()))
        other = command_with("backbone", [f"backbone={choice}", f"backbone.weights={weights}"])
        raise DownloadFailed(
            f"nothing is trained, since weights of this sweep cannot be fetched ({needs})",
            f"put the files there, or take weights that need no network: {other}",
        )


def _with_distinct_weights(jobs: Sequence[Job]) -> list[Job]:
    """Return jobs of all weights that the runs begin with; a run that has begun needs none."""
    found: dict[tuple[str, ...], Job] = {}
    for job in jobs:
        keys = ((key_and_value(each)[0], each) for each in job.overrides)
        deciding = (each for key, each in keys if key == CHOOSES_A_BACKBONE or key.partition(".")[0] in DECIDING)
        if (key := tuple(deciding)) not in found and not job.run.has_begun:
            found[key] = job
    return list(found.values())
