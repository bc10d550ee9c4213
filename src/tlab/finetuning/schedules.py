"""Learning-rate schedules, one torch scheduler per phase over parameter groups that never change.

Each function builds a `Schedule` for one phase. `PhasedScheduler` holds the current one and starts the next one
from the groups' base rates when a phase begins; `backbone_finetuning.py` applies the phase's own factor.

All builders take an optimizer whose groups' `initial_lr` is the base rate, the optimizer steps in the phase and in
an epoch, and arguments of their own; `warmup` is the share of the steps over which the rate climbs from 0.
"""

import math
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR

from tlab.core.errors import UserError
from tlab.finetuning.plan import Plan


class Schedule(NamedTuple):
    """A scheduler for one phase, and when to step it.

    Attributes:
        scheduler: A torch scheduler over the optimizer.
        interval: `"step"` (after every optimizer step) or `"epoch"`.
        monitor: Name of the metric handed to `scheduler.step`, or None.
        warmup: Optimizer steps over which the rate climbs linearly to what the scheduler says.
    """

    scheduler: LRScheduler
    interval: str
    monitor: str | None = None
    warmup: int = 0


BuildSchedule = Callable[..., Schedule]


def constant(optimizer: Optimizer, steps: int, steps_per_epoch: int, warmup: float = 0.0) -> Schedule:
    """Keep the base rate."""
    return Schedule(ConstantLR(optimizer, factor=1.0, total_iters=0), "epoch", warmup=_warm_steps(warmup, steps))


def cosine(
    optimizer: Optimizer, steps: int, steps_per_epoch: int, warmup: float = 0.1, final: float = 0.0
) -> Schedule:
    """Warm up, then fall along half a cosine to the share `final` (Loshchilov & Hutter 2017, "SGDR", eq. 5)."""
    warm = _warm_steps(warmup, steps)

    def factor(step: int) -> float:
        progress = min(1.0, max(0, step - warm) / max(1, steps - warm))
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

    return Schedule(LambdaLR(optimizer, factor), "step", warmup=warm)


def onecycle(
    optimizer: Optimizer,
    steps: int,
    steps_per_epoch: int,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Follow the 1cycle policy of Smith & Topin 2018 (momentum is cycled against the rate)."""
    peaks = [group["initial_lr"] for group in optimizer.param_groups]
    group = optimizer.param_groups[0]
    scheduler = OneCycleLR(
        optimizer,
        max_lr=peaks,
        # torch steps once more than the optimizer does, and divides by zero where the way up has no step
        total_steps=max(steps + 1, math.floor(1 / max(pct_start, 1e-3)) + 1),
        pct_start=pct_start,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        cycle_momentum="betas" in group or group.get("momentum", 0) > 0,
    )
    return Schedule(scheduler, "step")


def step(
    optimizer: Optimizer,
    steps: int,
    steps_per_epoch: int,
    step_size: int = 7,
    gamma: float = 0.1,
    warmup: float = 0.0,
) -> Schedule:
    """Multiply the rate by `gamma` every `step_size` epochs of the phase."""
    return Schedule(StepLR(optimizer, step_size, gamma), "epoch", warmup=_warm_steps(warmup, steps))


def plateau(
    optimizer: Optimizer,
    steps: int,
    steps_per_epoch: int,
    monitor: str = "val/loss",
    mode: Literal["min", "max"] = "min",
    factor: float = 0.1,
    patience: int = 3,
    threshold: float = 1e-4,
    warmup: float = 0.0,
) -> Schedule:
    """Multiply the rate by `factor` when `monitor` has not improved for more than `patience` epochs."""
    if mode not in ("min", "max"):
        raise ValueError(f"mode={mode} is not one of min, max")
    scheduler = ReduceLROnPlateau(optimizer, mode, factor, patience, threshold)
    return Schedule(scheduler, "epoch", monitor, _warm_steps(warmup, steps))


def _warm_steps(warmup: float, steps: int) -> int:
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup={warmup} is no share of the phase below 1")
    return round(warmup * steps)


class PhasedScheduler:
    """Runs one schedule per phase over one optimizer.

    Args:
        optimizer: Optimizer with final parameter groups; their `lr` now is the base rate of every phase.
        build: Builder of a phase's schedule.
    """

    def __init__(self, optimizer: Optimizer, build: BuildSchedule) -> None:
        self.optimizer = optimizer
        self.build = build
        self.base: list[dict[str, Any]] = [
            {key: group[key] for key in ("lr", "momentum", "betas") if key in group}
            for group in optimizer.param_groups
        ]
        self.length = (0, 0)
        self.arguments: dict[str, Any] = {}
        self.steps = 0
        self._scheduled: list[tuple[float, float | None]] = []
        self.current: Schedule  # set by `start_phase`

    def start_phase(self, steps: int, steps_per_epoch: int, arguments: Mapping[str, Any] | None = None) -> None:
        """Start the schedule of a phase from the base rates.

        Args:
            steps: Optimizer steps in the phase.
            steps_per_epoch: Optimizer steps in an epoch.
            arguments: Arguments of the schedule that differ in this phase.

        Raises:
            UserError: The schedule does not take these arguments.
        """
        self.length = (max(1, steps), max(1, steps_per_epoch))
        self.arguments, self.steps = dict(arguments or {}), 0
        for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
            for stale in ("initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum"):
                group.pop(stale, None)
            group.update(base)
            group["initial_lr"] = base["lr"]
        try:
            self.current = partial(self.build, **self.arguments)(self.optimizer, *self.length)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise UserError(f"scheduler cannot be built ({error}); correct its keys") from error

    def change_epochs(self, steps_per_epoch: int) -> None:
        """Move to the start of the current epoch, with another number of optimizer steps in each from now on."""
        steps, before = self.length
        done, state = self.steps // before, self.current.scheduler.state_dict()
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.start_phase(steps // before * steps_per_epoch, steps_per_epoch, self.arguments)
        self.steps = done * steps_per_epoch
        if self.current.interval == "epoch":
            self.current.scheduler.load_state_dict(state)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            return
        with warnings.catch_warnings(action="ignore"):  # torch sees no step of the optimizer between these
            for _ in range(self.steps):
                self.current.scheduler.step()

    def warmup_factor(self) -> float:
        """Return the factor of the warm-up on the rate of the next step: it climbs linearly to 1."""
        return min(1.0, (self.steps + 1) / (self.current.warmup + 1))

    def scale_groups(self, scales: Mapping[str, float], weight_decay: float | None) -> None:
        """Scale rates and set weight decay for one step, so that no schedule ever sees the scale.

        Args:
            scales: Factor on the rate of each of the optimizer's named groups.
            weight_decay: Weight decay of the groups that decay; None: the optimizer's.
        """
        warmup_factor = self.warmup_factor()
        self._scheduled = [(group["lr"], group.get("weight_decay")) for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] *= scales[group["group"]] * warmup_factor
            if weight_decay is not None and group["decays"]:
                group["weight_decay"] = weight_decay

    def restore_groups(self) -> None:
        """Put rates and weight decay back to what the schedule says, and advance it after the step."""
        for group, (rate, decay) in zip(self.optimizer.param_groups, self._scheduled, strict=True):
            group["lr"] = rate
            if decay is not None:
                group["weight_decay"] = decay
        self.after_step()

    def after_step(self) -> None:
        """Advance the warm-up, and a schedule that counts optimizer steps."""
        self.steps += 1
        if self.current.interval == "step":
            self.current.scheduler.step()

    def after_epoch(self, metrics: Mapping[str, Any]) -> None:
        """Advance a schedule that counts epochs.

        Raises:
            UserError: The schedule watches a metric that the run does not have.
        """
        monitor = self.current.monitor
        if monitor is not None and monitor not in metrics:
            raise UserError(
                f"scheduler.monitor={monitor} is not a metric of this run; there are {', '.join(metrics)}"
            )
        if self.current.interval == "epoch":
            measured: list[Any] = [] if monitor is None else [metrics[monitor]]
            self.current.scheduler.step(*measured)

    def state_dict(self) -> dict[str, Any]:
        """Return plain data: the phase's length and arguments, its steps so far, the state of its scheduler."""
        return {
            "length": list(self.length),
            "arguments": self.arguments,
            "steps": self.steps,
            "scheduler": self.current.scheduler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Rebuild the saved phase's schedule and restore its state; the rates come later, with the optimizer's."""
        steps, steps_per_epoch = state["length"]
        self.start_phase(steps, steps_per_epoch, state["arguments"])
        self.steps = state["steps"]
        self.current.scheduler.load_state_dict(state["scheduler"])


def check_schedules(plan: Plan, build: BuildSchedule, metrics: Collection[str]) -> None:
    """Check each phase's schedule before anything trains.

    Args:
        plan: The run's phases.
        build: Builder of a phase's schedule.
        metrics: Names of the metrics that the run will have.

    Raises:
        UserError: A schedule cannot be built, or watches a metric that the run does not have.
    """
    for phase in plan.phases:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0, momentum=0.9)
        scheduler = PhasedScheduler(optimizer, build)
        try:
            scheduler.start_phase(10, 5, phase.schedule)
            optimizer.step()  # torch warns where a schedule is stepped before the optimizer
            scheduler.after_step()
            scheduler.after_epoch(dict.fromkeys(metrics, torch.ones(())))
        except (UserError, TypeError, ValueError, ZeroDivisionError) as error:
            told = (
                error
                if isinstance(error, UserError)
                else f"scheduler cannot be stepped ({error}); correct its keys"
            )
            where = f" (finetune.phases.{phase.key}.scheduler)" if phase.schedule else ""
            raise UserError(f"{told}{where}") from error
