"""The state of a run: the phase of its plan, and the results so far."""

from dataclasses import dataclass, field, replace
from typing import Any

from tlab.finetuning.plan import Phase, Plan, Until


@dataclass
class PhaseRecord:
    """Record of one phase, kept up to date while the phase lasts.

    Attributes:
        name: Name of the phase.
        trained: Groups that trained, in forward order.
        start: First epoch of the phase, from 0.
        length: Maximum number of epochs.
        epochs: Number of epochs that have ended.
        best: Best value so far of the metric that may end the phase.
        waited: Epochs in a row without improvement of that metric.
        solution: How a solved phase found the head's optimum: `solver`, `iterations` and `l2`, for its row in
            history.csv; None while there is none.
        digests_before: SHA-256 of each group's parameters and buffers when the phase began.
        digests_after: SHA-256 of the same when the phase ended; those of frozen groups have not changed.
    """

    name: str
    trained: list[str]
    start: int
    length: int
    epochs: int = 0
    best: float | None = None
    waited: int = 0
    solution: dict[str, Any] | None = None
    digests_before: dict[str, str] = field(default_factory=dict)
    digests_after: dict[str, str] = field(default_factory=dict)

    def observe(self, until: Until, value: float) -> None:
        """Take the value that the phase's metric has after an epoch."""
        if until.improves(value, self.best):
            self.best, self.waited = value, 0
        else:
            self.waited += 1


@dataclass
class RunState:
    """The state of a run. Two callbacks write it, all others read it.

    `BackboneFinetuning` writes `records`, `scales` and `rates`; `RunRecorder` writes `rows`, `fit_seconds` and
    `best_epoch`. A checkpoint holds it in parts, with the callback that writes them.

    Attributes:
        plan: The run's phases.
        records: Record of each phase entered so far.
        scales: Each group's factor on the scheduled rate in the current phase; 0 where it is frozen.
        rates: Each group's learning rate as the next step will apply it; 0 where it is frozen.
        rows: Rows of history.csv, one for each epoch that has ended.
        fit_seconds: Wall-clock seconds of these epochs.
        best_epoch: Best of these epochs, from 0; None before the first has ended.
    """

    plan: Plan
    records: list[PhaseRecord] = field(default_factory=list)
    scales: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    fit_seconds: float = 0.0
    best_epoch: int | None = None

    @property
    def phase(self) -> Phase:
        """The current phase; before the first epoch, the first phase."""
        return self.plan.phases[max(0, len(self.records) - 1)]

    @property
    def solution(self) -> dict[str, Any]:
        """How the current phase has solved the head; empty where it trains."""
        return (self.records[-1].solution if self.records else None) or {}

    @property
    def in_last_phase(self) -> bool:
        """Whether no phase follows the current one."""
        return len(self.records) == len(self.plan.phases)

    @property
    def phase_is_over(self) -> bool:
        """Whether the current phase has lasted its epochs, or its metric has stopped improving."""
        record, until = self.records[-1], self.phase.until
        return record.epochs >= record.length or (until is not None and record.waited >= until.patience)

    @property
    def best_row(self) -> dict[str, Any]:
        """The row of the best epoch."""
        return next(row for row in self.rows if row["epoch"] == self.best_epoch)

    def summary(self) -> dict[str, float]:
        """Return the metrics of the best epoch; besides them `best_epoch` (from 0), `epochs` and `fit_seconds`."""
        metrics = {name: value for name, value in self.best_row.items() if name.startswith(("train/", "val/"))}
        return {
            **metrics,
            "best_epoch": self.best_row["epoch"],
            "epochs": len(self.rows),
            "fit_seconds": round(self.fit_seconds, 3),
        }

    def plan_to_best(self) -> Plan:
        """Return the plan that leads to the best epoch as this training has; its phases are as long as they were.

        The last of them is cut behind the best epoch. Each schedule stays laid over the epochs of this training, so
        the rates of each epoch are those that it had, and training ends at the rate at which the best weights were
        found. An annealing squeezed into fewer epochs would be another training, of which nobody knows which epoch
        is the best.
        """
        assert self.best_epoch is not None
        epochs = self.best_epoch + 1
        phases = tuple(
            replace(
                phase,
                epochs=min(record.epochs, epochs - record.start),
                until=None,
                scheduled=record.length,
                l2=(record.solution or {}).get("l2"),
            )
            for phase, record in zip(self.plan.phases, self.records, strict=False)
            if record.start < epochs
        )
        return Plan(phases, epochs, self.plan.group_scales)

    def phase_summaries(self) -> list[dict[str, Any]]:
        """Return each phase's record, with the `seconds` of its epochs and their mean `images_per_second`."""
        return [vars(record) | self._speed(record.name) for record in self.records]

    def _speed(self, phase: str) -> dict[str, float]:
        rows = [row for row in self.rows if row["phase"] == phase]
        speeds = [row["images_per_second"] for row in rows]
        return {
            "seconds": round(sum(row["seconds"] for row in rows), 3),
            "images_per_second": round(sum(speeds) / max(1, len(speeds)), 1),
        }
