"""A fine-tuning strategy as data: a list of phases, each saying which stages train, for how long, at which rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tlab.errors import UserError

HEAD = "head"


@dataclass(frozen=True)
class Phase:
    """One phase of a plan, with its place in the run.

    Attributes:
        name: The phase's key in `finetune.phases`.
        train: `"head"` (the backbone is fixed), `"all"`, an integer k (the last k stages and the head), or the
            names of the stages that train besides the head.
        start: First epoch of the phase, counted from 0.
        epochs: Length in epochs.
        lr_scale: Factor on every group's learning rate while the phase lasts.
    """

    name: str
    train: str | int | tuple[str, ...]
    start: int
    epochs: int
    lr_scale: float = 1.0

    def groups(self, stage_names: Sequence[str]) -> frozenset[str]:
        """Return the names of the parameter groups that train, the head among them.

        Raises:
            UserError: The phase names a stage that the backbone does not have.
        """
        key = f"finetune.phases.{self.name}.train"
        if self.train == "head":
            return frozenset({HEAD})
        if self.train == "all":
            return frozenset({*stage_names, HEAD})
        if isinstance(self.train, int):
            if not 0 <= self.train <= len(stage_names):
                raise UserError(
                    f"{key}={self.train} asks for more stages than the backbone's {len(stage_names)}: "
                    f"{', '.join(stage_names)}"
                )
            return frozenset({*stage_names[len(stage_names) - self.train :], HEAD})
        named = (self.train,) if isinstance(self.train, str) else self.train
        if unknown := [name for name in named if name not in (*stage_names, HEAD)]:
            raise UserError(
                f"{key} names {', '.join(unknown)}, which the backbone does not have; "
                f"its stages are {', '.join(stage_names)} (or write head, all, or a number of last stages)"
            )
        return frozenset({*named, HEAD})


@dataclass(frozen=True)
class Plan:
    """The phases of a run in order, and how the backbone's rate relates to the head's.

    Attributes:
        phases: At least one; each starts where the one before ends.
        backbone_lr_scale: Learning rate of every backbone stage as a multiple of the head's.
    """

    phases: tuple[Phase, ...]
    backbone_lr_scale: float = 1.0

    @property
    def epochs(self) -> int:
        """Length of the run in epochs."""
        return sum(phase.epochs for phase in self.phases)

    def phase_at(self, epoch: int) -> Phase:
        """Return the phase that `epoch` (from 0) lies in; past the end, the last one."""
        return next((p for p in self.phases if epoch < p.start + p.epochs), self.phases[-1])

    def rate_scales(self, phase: Phase, stage_names: Sequence[str]) -> dict[str, float]:
        """Return each group's factor on the scheduled learning rate; 0 where the group is frozen."""
        trained = phase.groups(stage_names)
        stages = dict.fromkeys(stage_names, self.backbone_lr_scale * phase.lr_scale)
        return {name: scale if name in trained else 0.0 for name, scale in {**stages, HEAD: phase.lr_scale}.items()}


def build_plan(phases: Mapping[str, Mapping[str, Any]], max_epochs: int, backbone_lr_scale: float = 1.0) -> Plan:
    """Lay the phases one after the other over `max_epochs` epochs.

    Args:
        phases: Name -> `{train, epochs, lr_scale}`, in order; `epochs: null` takes what the others leave, and a
            phase of 0 epochs is left out.
        max_epochs: Upper bound of the run's length in epochs.
        backbone_lr_scale: See `Plan`.

    Raises:
        UserError: Nothing trains, a number is out of range, the phases do not fit, or two want the rest.
    """
    if max_epochs < 1:
        raise UserError(f"trainer.max_epochs={max_epochs} is no length for a run; give 1 or more")
    if backbone_lr_scale < 0:
        raise UserError(f"finetune.backbone_lr_scale={backbone_lr_scale} must not be negative")
    open_ended = [name for name, phase in phases.items() if phase.get("epochs") is None]
    if len(open_ended) > 1:
        raise UserError(
            f"finetune.phases {' and '.join(open_ended)} all take the rest of the epochs; give all but one a number"
        )
    fixed = sum(int(phase["epochs"]) for phase in phases.values() if phase.get("epochs") is not None)
    if fixed + len(open_ended) > max_epochs:
        raise UserError(
            f"trainer.max_epochs={max_epochs} is too short for the phases {', '.join(phases)}, which want "
            f"{'more than ' if open_ended else ''}{fixed}; raise it, or shorten finetune.head_epochs "
            f"or finetune.phases.<name>.epochs"
        )
    laid: list[Phase] = []
    start = 0
    for name, phase in phases.items():
        epochs = max_epochs - fixed if phase.get("epochs") is None else int(phase["epochs"])
        scale = float(phase.get("lr_scale", 1.0))
        for key, number in {"epochs": epochs, "lr_scale": scale}.items():
            if number < 0:
                raise UserError(f"finetune.phases.{name}.{key}={number} must not be negative")
        if epochs:
            laid.append(Phase(name, _train(name, phase["train"]), start, epochs, scale))
        start += epochs
    if not laid:
        raise UserError("finetune.phases leaves no epoch to train; give a phase epochs, or null for the rest")
    return Plan(tuple(laid), backbone_lr_scale)


def _train(name: str, value: Any) -> str | int | tuple[str, ...]:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return value
    if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise UserError(
        f"finetune.phases.{name}.train={value!r} is not head, all, a number of last stages or a list of stages"
    )
