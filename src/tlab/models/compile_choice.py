"""Where torch.compile pays: what it saves over a run against the seconds that it takes, both measured here."""

import copy
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tlab.cache import cache_dir, write_text
from tlab.models.classifier import Classifier
from tlab.models.compiling import Groups, Trained, compiler, reason
from tlab.models.precision import autocast, processor

# How many times faster a compiled training step may be: on 2 cores the most that was seen of ResNet-18, ResNet-50
# and MobileNetV3-small; on GPUs the mean of Ansel et al. 2024 over 180 networks (A100).
GAINS = {("cpu", "32-true"): 1.2, ("cpu", "bf16-mixed"): 1.05, ("cuda", "32-true"): 1.4}
GAINS |= {("cuda", "bf16-mixed"): 1.4, ("cuda", "16-mixed"): 1.4}
TRIAL = 60.0  # seconds that trying it out takes at most (31 to 59 were seen on 2 cores)
WORTH = 3.0  # times a trial's seconds that a run might save, before it is tried
CLEAR = 1.05  # compiled must be so many times faster; a smaller difference may be another process's doing
ROUNDS = 5
BUDGET = 20.0  # seconds after which no further round is timed
FEW = 8  # images that tell a CPU's speed
WARM_UP = 1.0  # seconds of a first step that counts itself: what warming up adds to it is little


@dataclass(frozen=True)
class Setting:
    """What the speed of a training step depends on, besides the network.

    Attributes:
        name: Names the network in the memory.
        image_size: Side of the images in pixels.
        batch_size: Images of a step, in one process.
        accelerator: `cpu`, `cuda` or `mps`.
        precision: `32-true`, `bf16-mixed` or `16-mixed`.
        channels_last: Memory format.
    """

    name: str
    image_size: int
    batch_size: int
    accelerator: str
    precision: str
    channels_last: bool

    @property
    def key(self) -> str:
        """Under which the speeds are remembered."""
        on_gpu = self.accelerator == "cuda"
        hardware = torch.cuda.get_device_name() if on_gpu else f"{processor()} x{torch.get_num_threads()}"
        parts = (hardware, torch.__version__, self.name, self.image_size, self.batch_size, self.precision)
        return "|".join(map(str, (*parts, self.channels_last)))


def worth_compiling(
    net: Classifier, images: Mapping[Groups, int], setting: Setting
) -> tuple[frozenset[Groups], str]:
    """Return the sets of groups for which compiling pays, and why, in words.

    An uncompiled step is timed (about a second). Only where the run is so long that it might save three times
    what a trial takes, a copy of the network is compiled and timed in turns with one that is not. Both are
    remembered in the cache directory for this machine, network, setting and torch version, and so are the seconds
    that a run took for its graphs: they are fewer where the cache directory has the graph already. Compiling pays
    for a graph if it is clearly faster and saves more seconds than it takes.

    Args:
        net: Left as it is, like the random state.
        images: For each set of groups that train together, how many images it is trained on over the run.
        setting: How.
    """
    gain = GAINS.get((setting.accelerator, setting.precision))
    if gain is None:
        return frozenset(), f"it was never seen to be faster on {setting.accelerator} in {setting.precision}"
    known = _read().get(setting.key, {})
    if "eager" not in known:
        known["eager"] = eager_speed(net, setting)
        _remember(setting, known)
    shares = {groups: _share(net, groups) for groups in images}
    seconds = sum(count * shares[groups] for groups, count in images.items()) / known["eager"]
    if "compiled" not in known:
        if seconds * (1 - 1 / gain) < WORTH * TRIAL:
            return frozenset(), f"the {seconds:.0f} s or so that training takes here are too few for it to pay"
        try:
            known |= try_out(net, setting)
        except Exception as error:  # no compiler, or one that this network is too much for; asked again next time
            return frozenset(), f"it does not work here ({reason(error)})"
        _remember(setting, known)
    eager, compiled = known["eager"], known["compiled"]
    figures = f"{compiled:.3g} images per second compiled, {eager:.3g} without, measured here"
    if compiled < CLEAR * eager:
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
    known = _read().get(setting.key)
    if known is not None and "compiled" in known:
        _remember(setting, known | {"graphs": {**known["graphs"], _graph(net, groups): round(seconds, 1)}})


def eager_speed(net: Classifier, setting: Setting) -> float:
    """Return images per second of a training step of the whole network, without the optimiser's part.

    On a CPU a few images tell; a GPU is fast only with whole batches.
    """
    size = min(setting.batch_size, FEW) if setting.accelerator == "cpu" else setting.batch_size
    with _Steps(net, setting, max(2, size)) as steps:
        seconds = steps.seconds(_eager)
        if seconds < WARM_UP:
            seconds = min(steps.seconds(_eager) for _ in range(2))
    return max(2, size) / seconds


def try_out(net: Classifier, setting: Setting) -> dict[str, Any]:
    """Compile a copy of the network, all of which trains, and time it in turns with one that is not compiled.

    Returns:
        `eager` and `compiled`: images per second, the best of a few rounds; `seconds` that compiling took;
        `graphs`: for this graph the seconds that it takes now, when the cache directory has it.
    """
    run = compiler()
    with _Steps(net, setting, setting.batch_size) as steps:
        once = min(steps.seconds(_eager) for _ in range(2))
        cold = max(0.0, steps.seconds(run) - once)
        torch._dynamo.reset()
        warm = max(0.0, steps.seconds(run) - once)
        best = {"eager": once, "compiled": steps.seconds(run)}
        started = time.perf_counter()
        for _ in range(ROUNDS):
            best["eager"] = min(best["eager"], steps.seconds(_eager))
            best["compiled"] = min(best["compiled"], steps.seconds(run))
            if time.perf_counter() - started > BUDGET:
                break
    torch._dynamo.reset()  # lets go of the copy
    speeds: dict[str, Any] = {kind: round(setting.batch_size / seconds, 2) for kind, seconds in best.items()}
    graph = _graph(net, frozenset(net.group_names))
    return speeds | {"seconds": round(cold, 1), "graphs": {graph: round(warm, 1)}}


class _Steps:
    """Training steps of a copy of the network, all of which trains; the random state is as it was afterwards."""

    def __init__(self, net: Classifier, setting: Setting, batch_size: int) -> None:
        self.device = torch.device(setting.accelerator)
        self.precision = setting.precision
        format_ = torch.channels_last if setting.channels_last else torch.contiguous_format
        x = torch.zeros(batch_size, 3, setting.image_size, setting.image_size, dtype=torch.uint8)
        self.x = x.to(self.device, memory_format=format_)
        self.label = torch.zeros(batch_size, dtype=torch.long, device=self.device)
        self.net = copy.deepcopy(net)
        self.net.set_trainable(net.group_names)
        self.net.train().to(self.device).to(memory_format=format_)
        self._random = torch.random.fork_rng([self.device] if self.device.type == "cuda" else [])

    def __enter__(self) -> "_Steps":
        self._random.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._random.__exit__(*error)

    def seconds(self, run: Trained) -> float:
        """Return how long one step takes."""
        self.net.zero_grad()
        started = time.perf_counter()
        with torch.enable_grad(), autocast(self.device, self.precision):
            logits: Tensor = run(self.net, self.x, "")
            loss = F.cross_entropy(logits.float(), self.label)
        loss.backward()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - started


def _eager(net: Classifier, x: Tensor, after: str) -> Tensor:
    return net.trained_part(x, after)


def _share(net: Classifier, groups: Groups) -> float:
    """Return which part of the stages a step goes through with a graph: from the first one that trains."""
    names = net.backbone.stage_names
    first = next(index for index, name in enumerate(names) if name in groups)
    return (len(names) - first) / len(names)


def _graph(net: Classifier, groups: Groups) -> str:
    names = [name for name in net.group_names if name in groups]
    return f"{', '.join(names)} of {net.head.linear.out_features} classes"


def _read() -> dict[str, dict[str, Any]]:
    try:
        return dict(json.loads((cache_dir() / "compile.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _remember(setting: Setting, known: Mapping[str, Any]) -> None:
    with suppress(OSError):  # a cache that cannot be written: measured again next time
        write_text(cache_dir() / "compile.json", json.dumps(_read() | {setting.key: dict(known)}, indent=1))
