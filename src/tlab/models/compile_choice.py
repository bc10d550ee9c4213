"""Where torch.compile pays: what it saves over a run against the seconds that it takes, both measured here."""

import logging
from collections.abc import Mapping
from typing import Any

import torch

from tlab.cache import recall, remember, this_command
from tlab.models.classifier import Classifier
from tlab.models.compile_trial import Setting, Trial, eager_speed, try_out
from tlab.models.compiling import Groups, reason
from tlab.models.precision import training_speed

log = logging.getLogger(__name__)

MEMORY = "compile.json"

# How many times faster a compiled training step may be: on 2 cores the most that was seen of ResNet-18, ResNet-50
# and MobileNetV3-small; on GPUs the mean of Ansel et al. 2024 over 180 networks (A100).
GAINS = {("cpu", "32-true"): 1.2, ("cpu", "bf16-mixed"): 1.05}
GAINS |= dict.fromkeys((("cuda", "32-true"), ("cuda", "bf16-mixed"), ("cuda", "16-mixed")), 1.4)
TRIAL = 60.0  # seconds that trying it out takes at most (31 to 59 were seen on 2 cores)
WORTH = 3.0  # times a trial's seconds that a run might save, before it is tried
CLEAR = 1.05  # compiled must be so many times faster; a smaller difference may be another process's doing
TRIALS = 3  # as often it is tried where there is no clear gain: the second time the graph is there already


def worth_compiling(
    net: Classifier, images: Mapping[Groups, int], setting: Setting
) -> tuple[frozenset[Groups], str]:
    """Return the sets of groups for which compiling pays, and why, in words.

    An uncompiled step is timed (within a second or so). Only where the run is so long that it might save three
    times what a trial takes, a copy of the network is compiled and timed in turns with one that is not. Both are
    remembered in the cache directory for this machine, network, setting and torch version, and so are the seconds
    that a run took for its graphs: they are fewer where the cache directory has the graph already. Compiling pays
    for a graph if it is clearly faster and saves more seconds than it takes. Where it is not clearly faster, the
    next command with a long run tries again, three times in all: of each kind the fastest measurement counts. The
    runs of a command get one answer.

    Args:
        net: Left as it is, like the random state.
        images: For each set of groups that train together, how many images it is trained on over the run.
        setting: How.
    """
    gain = GAINS.get((setting.accelerator, setting.precision))
    if gain is None:
        return frozenset(), f"it was never seen to be faster on {setting.accelerator} in {setting.precision}"
    known = recall(MEMORY).get(setting.key, {})
    if "eager" not in known:
        known["eager"] = round(_known_speed(setting) or eager_speed(net, setting), 2)
        remember(MEMORY, setting.key, known)
    shares = {groups: _share(net, groups) for groups in images}
    seconds = sum(count * shares[groups] for groups, count in images.items()) / known["eager"]
    is_long = seconds * (1 - 1 / gain) >= WORTH * TRIAL
    if "compiled" not in known and not is_long:
        return frozenset(), f"the {seconds:.0f} s or so that training takes here are too few for it to pay"
    unsure = not _is_clear(known) and known.get("trials", 0) < TRIALS
    if is_long and unsure and known.get("command") != this_command():
        log.info("torch.compile is tried out, which may take a minute; the answer is remembered")
        try:
            known = _with_trial(known, try_out(net, setting), _graph(net, frozenset(net.group_names)))
            known["command"] = this_command()
        except Exception as error:  # no compiler, or one that this network is too much for; asked again next time
            return frozenset(), f"it does not work here ({reason(error)})"
        remember(MEMORY, setting.key, known)
    eager, compiled = known["eager"], known["compiled"]
    figures = f"{compiled:.3g} images per second compiled, {eager:.3g} without, measured here"
    if not _is_clear(known):
        return frozenset(), f"{figures} (no clear gain)"
    saved = {groups: count * shares[groups] * (1 / eager - 1 / compiled) for groups, count in images.items()}
    cost = {
        groups: known["graphs"].get(_graph(net, groups), known["seconds"] * share)
        for groups, share in shares.items()
    }
    chosen = frozenset(groups for groups in images if saved[groups] > cost[groups])
    total_saved, total_cost = (sum(each[groups] for groups in chosen or images) for each in (saved, cost))
    return chosen, f"{figures}; compiling takes {total_cost:.0f} s and saves {total_saved:.0f} s of this run"


def note_seconds(net: Classifier, setting: Setting, groups: Groups, seconds: float) -> None:
    """Remember how long a run has just compiled for a set of groups, for the decisions of later runs."""
    known = recall(MEMORY).get(setting.key)
    if known is not None and "compiled" in known:
        graphs = {**known["graphs"], _graph(net, groups): round(seconds, 1)}
        remember(MEMORY, setting.key, known | {"graphs": graphs})


def _is_clear(known: Mapping[str, Any]) -> bool:
    return "compiled" in known and known["compiled"] >= CLEAR * known["eager"]


def _with_trial(known: Mapping[str, Any], trial: Trial, graph: str) -> dict[str, Any]:
    """Return what is known after a trial; the speed of before the first one was an estimate."""
    if "compiled" not in known:
        speeds = {"eager": trial.eager, "compiled": trial.compiled, "seconds": trial.seconds}
        return speeds | {"trials": 1, "graphs": {graph: trial.again}}
    fastest = {"eager": max(known["eager"], trial.eager), "compiled": max(known["compiled"], trial.compiled)}
    return {**known, **fastest, "trials": known["trials"] + 1}


def _known_speed(setting: Setting) -> float | None:
    """Return images per second, where they were measured for the choice of the precision."""
    if setting.accelerator != "cpu":
        return None
    name, size, channels_last = setting.name, setting.image_size, setting.channels_last
    a_core = training_speed(name, size, channels_last, setting.precision)
    return a_core * torch.get_num_threads() if a_core else None


def _share(net: Classifier, groups: Groups) -> float:
    """Return which part of the stages a step goes through with a graph: from the first one that trains."""
    names = net.backbone.stage_names
    first = next(index for index, name in enumerate(names) if name in groups)
    return (len(names) - first) / len(names)


def _graph(net: Classifier, groups: Groups) -> str:
    """Return a name for the graph of what trains: another head, say for more classes, makes another one."""
    names = ", ".join(name for name in net.group_names if name in groups)
    return f"{names}: {net.head.pooling} {' '.join(repr(net.head).split())}"
