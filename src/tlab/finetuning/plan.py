"""A fine-tuning strategy as data: a list of phases that say which stages train, for how long, at which rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tlab.config.validation import best_is, check_value
from tlab.core.errors import UserError
from tlab.core.text import counted

HEAD = "head"
GRADUAL = "gradual"


@dataclass(frozen=True)
class Until:
    """When a phase ends before its epochs are over: a metric has stopped improving.

    Attributes:
        monitor: Metric of the run, for instance `val/loss`.
        patience: Epochs in a row without improvement after which the phase ends.
        min_delta: Smallest change that counts as an improvement.
        mode: `"min"` or `"max"`.
    """

    monitor: str = "val/loss"
    patience: int = 3
    min_delta: float = 0.0
    mode: str = "min"

    def improves(self, value: float, best: float | None) -> bool:
        """Tell whether `value` is better than the best so far (None: there is none)."""
        if best is None:
            return True
        return value < best - self.min_delta if self.mode == "min" else value > best + self.min_delta


@dataclass(frozen=True)
class Phase:
    """One phase of a plan.

    Attributes:
        name: The phase's key in `finetune.phases`; of gradual unfreezing `<key>/<stage>`.
        trained: Names of the groups that train: stages, and always the head.
        epochs: Length in epochs, at most; None: what the other phases leave.
        lr_scale: Factor on every group's learning rate while the phase lasts.
        until: Condition that ends the phase sooner; None: it lasts its epochs.
        schedule: Arguments of the scheduler that differ in this phase.
        weight_decay: Weight decay of the groups that decay; None: the optimizer's.
        solved: Whether the head is set to its optimum at once; the phase then lasts one epoch, which measures it.
        l2: Strength of the penalty of a head that is solved; None: chosen by cross-validation.
        scheduled: Epochs over which the schedule is laid; None: the phase's own length. A phase that is cut short
            ends at the rate that it has by then.
    """

    name: str
    trained: frozenset[str]
    epochs: int | None = None
    lr_scale: float = 1.0
    until: Until | None = None
    schedule: Mapping[str, Any] = field(default_factory=dict)
    weight_decay: float | None = None
    solved: bool = False
    l2: float | None = None
    scheduled: int | None = None

    @property
    def key(self) -> str:
        """Key of the phase in `finetune.phases`."""
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class Plan:
    """The phases of a run in order, over a backbone's stages.

    Attributes:
        phases: One or more phases; each starts where the one before ends.
        max_epochs: Upper bound of the run's length in epochs.
        group_scales: Learning rate of each group (the stages and the head) as a multiple of the optimizer's.
    """

    phases: tuple[Phase, ...]
    max_epochs: int
    group_scales: Mapping[str, float]

    def length(self, index: int, epoch: int) -> int:
        """Return how many epochs phase `index` may last if it begins at `epoch` (from 0)."""
        own = self.phases[index].epochs
        if own is not None:
            return own
        return self.max_epochs - epoch - sum(phase.epochs or 0 for phase in self.phases[index + 1 :])

    @property
    def starts(self) -> tuple[int, ...]:
        """First epoch of each phase, where none ends sooner than it must."""
        starts = [0]
        for index in range(len(self.phases) - 1):
            starts.append(starts[-1] + self.length(index, starts[-1]))
        return tuple(starts)

    @property
    def epochs(self) -> int:
        """Length of the run in epochs, where no phase ends sooner than it must."""
        return self.starts[-1] + self.length(len(self.phases) - 1, self.starts[-1])

    def rate_scales(self, phase: Phase) -> dict[str, float]:
        """Return each group's factor on the scheduled learning rate; 0 where the group is frozen, or solved."""
        return {
            name: scale * phase.lr_scale if name in phase.trained and not phase.solved else 0.0
            for name, scale in self.group_scales.items()
        }

    def with_solved_heads(self) -> "Plan":
        """Return the plan whose phases of the head alone are solved, in one epoch; the others are as before."""
        phases, spared = [], 0
        for index, (start, phase) in enumerate(zip(self.starts, self.phases, strict=True)):
            if phase.trained == {HEAD}:
                spared += self.length(index, start) - 1
                phase = replace(phase, epochs=1, until=None, solved=True)
            phases.append(phase)
        return Plan(tuple(phases), self.max_epochs - spared, self.group_scales)


def build_plan(
    phases: Mapping[str, Mapping[str, Any]],
    max_epochs: int,
    stage_names: Sequence[str],
    backbone_lr_scale: float = 1.0,
    stage_lr_decay: float = 1.0,
    stage_lr_scales: Sequence[float] | Mapping[str, float] | None = None,
    head_first: bool = False,
    early_stopping: Until | None = None,
) -> Plan:
    """Lay the phases one after the other over `max_epochs` epochs.

    Args:
        phases: Name -> `{train, epochs, lr_scale, until, scheduler, weight_decay}`, in order; `epochs: null` takes
            what the others leave, and a phase of 0 epochs is left out. `train` is `"head"` (the backbone is fixed),
            `"all"`, an integer k (the last k stages and the head), the names of the stages that train besides the
            head, or `"gradual"`: one stage more at a time from the top (Howard & Ruder 2018, section 3.3), in
            phases of equal length, of which the last one takes what is left over.
        max_epochs: Upper bound of the run's length in epochs.
        stage_names: The backbone's stages, in forward order.
        backbone_lr_scale: Learning rate of the backbone as a multiple of the head's.
        stage_lr_decay: Factor from each stage to the one before it; the last stage has the backbone's rate
            (discriminative fine-tuning, Howard & Ruder 2018, section 3.2).
        stage_lr_scales: Each stage's rate as a multiple of the backbone's, in the order of the stages or by name
            (1 where no name is given); takes the place of `stage_lr_decay`.
        head_first: Whether to refuse a plan whose first phase trains more than the head.
        early_stopping: Condition that ends the last phase, and so the run; None: the last phase's own `until`.

    Raises:
        UserError: Nothing trains, a number is out of range, the phases do not fit, two want the rest, a phase
            names a stage that the backbone does not have, the head is not first where it must be, or the last phase
            has an `until` of its own besides `early_stopping`.
    """
    check_value("trainer.max_epochs", max_epochs)
    check_value("finetune.backbone_lr_scale", backbone_lr_scale)
    check_value("finetune.stage_lr_decay", stage_lr_decay)
    if slashed := [name for name in phases if "/" in name]:
        raise UserError(f"finetune.phases.{slashed[0]}: a name cannot have a / in it; choose another one")
    wanted = {name: phase for name, phase in phases.items() if phase.get("epochs") != 0}
    if not wanted:
        raise UserError("finetune.phases leaves no epoch to train; give a phase epochs, or null for the rest")
    rest = _rest(wanted, max_epochs)
    laid = [part for name, phase in wanted.items() for part in _lay(name, phase, rest, stage_names)]
    if head_first and laid[0].trained != {HEAD}:
        raise UserError(
            f"finetune.phases.{laid[0].name} unfreezes the backbone before the head has trained, which this plan "
            "is there to avoid; give finetune.head_epochs=1 or more, or choose finetune=full"
        )
    if early_stopping is not None:
        if laid[-1].until is not None:
            raise UserError(
                f"trainer.early_stopping={early_stopping.patience} and finetune.phases.{laid[-1].key}.until both "
                f"end the last phase; give trainer.early_stopping=null or finetune.phases.{laid[-1].key}.until=null"
            )
        laid[-1] = replace(laid[-1], until=early_stopping)
    scales = _stage_scales(stage_names, stage_lr_decay, stage_lr_scales)
    groups = {name: backbone_lr_scale * scale for name, scale in scales.items()}
    return Plan(tuple(laid), max_epochs, {**groups, HEAD: 1.0})


def _rest(phases: Mapping[str, Mapping[str, Any]], max_epochs: int) -> int:
    """Return how many epochs the phases of fixed length leave."""
    for name, phase in phases.items():
        for key in ("epochs", "lr_scale", "weight_decay"):
            if (number := phase.get(key)) is not None and not number >= 0:  # nor may it be nan
                raise UserError(f"finetune.phases.{name}.{key}={number} must not be negative")
    open_ended = [name for name, phase in phases.items() if phase.get("epochs") is None]
    if len(open_ended) > 1:
        raise UserError(
            f"finetune.phases {' and '.join(open_ended)} all take the rest of the epochs; give all but one a number"
        )
    fixed = sum(phase["epochs"] for phase in phases.values() if phase.get("epochs") is not None)
    if fixed + len(open_ended) > max_epochs:
        shorter = f"shorten finetune.head_epochs or finetune.phases.{next(iter(phases))}.epochs"
        raise UserError(
            f"trainer.max_epochs={max_epochs} is too short for the phases {', '.join(phases)}; give "
            f"trainer.max_epochs={fixed + len(open_ended)} or more, or "
            f"{shorter if max_epochs >= len(phases) else 'a plan of one phase: finetune=head or finetune=full'}"
        )
    return max_epochs - fixed


def _lay(name: str, phase: Mapping[str, Any], rest: int, stage_names: Sequence[str]) -> list[Phase]:
    """Return the phase, or of a gradual one its parts."""
    epochs, schedule = phase.get("epochs"), phase.get("scheduler") or {}
    if not isinstance(schedule, Mapping):
        raise UserError(
            f"finetune.phases.{name}.scheduler={schedule} is no list of the scheduler's keys; "
            f"give for instance 'finetune.phases.{name}.scheduler={{warmup: 0.2}}'"
        )
    common: dict[str, Any] = {
        "lr_scale": float(phase.get("lr_scale", 1.0)),
        "until": _until(name, phase.get("until")),
        "schedule": dict(schedule),
        "weight_decay": phase.get("weight_decay"),
    }
    if phase["train"] != GRADUAL:
        return [Phase(name, _groups(name, phase["train"], stage_names), epochs, **common)]
    total = rest if epochs is None else epochs
    count = min(len(stage_names), total)
    parts = []
    for part in range(1, count + 1):
        top = stage_names[-round(part * len(stage_names) / count) :]
        last = None if epochs is None else total - (count - 1) * (total // count)
        length = last if part == count else total // count
        parts.append(Phase(f"{name}/{top[0]}", frozenset({*top, HEAD}), length, **common))
    return parts


def _groups(name: str, train: Any, stage_names: Sequence[str]) -> frozenset[str]:
    """Return the names of the groups that train, the head among them."""
    key = f"finetune.phases.{name}.train"
    if train == "all":
        return frozenset({*stage_names, HEAD})
    if isinstance(train, int) and not isinstance(train, bool):
        if not 0 <= train <= len(stage_names):
            stages = f"{len(stage_names)}: {', '.join(stage_names)}"
            raise UserError(f"{key}={train} asks for more stages than the backbone's {stages}")
        return frozenset({*stage_names[len(stage_names) - train :], HEAD})
    named = (train,) if isinstance(train, str) else train
    if not isinstance(named, Sequence) or not all(isinstance(item, str) for item in named):
        raise UserError(f"{key}={train!r} is not head, all, gradual, a number of last stages or a list of stages")
    if unknown := [stage for stage in named if stage not in (*stage_names, HEAD)]:
        raise UserError(
            f"{key} names {', '.join(unknown)}, which the backbone does not have; "
            f"its stages are {', '.join(stage_names)} (or write head, all, gradual, or a number of last stages)"
        )
    return frozenset({*named, HEAD})


def _until(name: str, until: Mapping[str, Any] | None) -> Until | None:
    if until is None:
        return None
    keys = Until.__dataclass_fields__
    if not isinstance(until, Mapping) or until.keys() - keys:
        raise UserError(
            f"finetune.phases.{name}.until={until} cannot be read; give some of {', '.join(keys)}, for instance "
            f"'finetune.phases.{name}.until={{monitor: val/loss, patience: 3}}'"
        )
    values = {key: value for key, value in until.items() if value is not None}
    monitor = str(values.get("monitor", Until.monitor))
    for key, kind, what in (("patience", int, "a whole number"), ("min_delta", int | float, "a number")):
        if not isinstance(values.get(key, 0), kind):
            raise UserError(f"finetune.phases.{name}.until.{key}={values[key]} is not {what}")
    rule = Until(**{"mode": best_is(monitor), **values})
    if rule.mode not in ("min", "max"):
        raise UserError(f"finetune.phases.{name}.until.mode={rule.mode} is not one of min, max")
    if rule.patience < 1 or not rule.min_delta >= 0:
        raise UserError(
            f"finetune.phases.{name}.until needs a patience of 1 or more epochs and a min_delta of 0 or more"
        )
    return rule


def _stage_scales(
    stage_names: Sequence[str], decay: float, scales: Sequence[float] | Mapping[str, float] | None
) -> dict[str, float]:
    """Return each stage's rate as a multiple of the backbone's."""
    if scales is None:
        return {name: decay ** (len(stage_names) - 1 - place) for place, name in enumerate(stage_names)}
    stages = ", ".join(stage_names)
    listed = list(scales.values()) if isinstance(scales, Mapping) else scales
    several = isinstance(listed, Sequence) and len(listed) > 0
    if not several or not all(isinstance(scale, int | float) for scale in listed):
        raise UserError(
            f"finetune.stage_lr_scales={scales} is no list of numbers; give one for each of {stages}, or some by "
            f"name: 'finetune.stage_lr_scales={{{stage_names[0]}: 0.1}}'"
        )
    if not isinstance(scales, Mapping):
        if len(scales) != len(stage_names):
            raise UserError(
                f"finetune.stage_lr_scales has {counted(scales, 'number')} for {counted(stage_names, 'stage')}; "
                f"give one for each of {stages}, or some by name: "
                f"'finetune.stage_lr_scales={{{stage_names[0]}: 0.1}}'"
            )
        scales = dict(zip(stage_names, scales, strict=True))
    if unknown := [name for name in scales if name not in stage_names]:
        raise UserError(
            f"finetune.stage_lr_scales names {', '.join(unknown)}, which the backbone does not have; "
            f"its stages are {stages}"
        )
    found = {name: float(scales.get(name, 1.0)) for name in stage_names}
    if not min(found.values()) >= 0:
        raise UserError("finetune.stage_lr_scales must not be negative; 0 holds a stage's weights still")
    return found
