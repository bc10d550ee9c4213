"""The table of the network's stages: output shape, number of parameters, and phases in which each trains."""

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L
from rich import box, get_console
from rich.console import Console
from rich.table import Table

from tlab.dashboards.tensorboard import writer
from tlab.models.classifier import Classifier


@dataclass(frozen=True)
class StageRow:
    """One stage, or the head.

    Attributes:
        name: Name of the stage, or `head`.
        output_shape: Shape without the batch axis: `C H W`, `N C` or `C`, as the network lays it out.
        parameters: Number of parameters, frozen or not.
        trainable_now: Whether it trains in the current phase.
        phases: Names of the phases in which it trains.
        when: The phases in words.
    """

    name: str
    output_shape: tuple[int, ...]
    parameters: int
    trainable_now: bool
    phases: tuple[str, ...]
    when: str


def stage_rows(net: Classifier, image_size: int, plan: Any) -> list[StageRow]:
    """Return a row for each stage and for the head.

    Args:
        net: The classifier, in any mode; left unchanged.
        image_size: Side of the images in pixels.
        plan: The run's phases (`tlab.finetuning.Plan`).

    Raises:
        UserError: The network does not take images of this size.
    """
    shapes = {**net.backbone.stage_shapes(image_size), "head": (net.head.linear.out_features,)}
    trained = {phase.name: phase.trained for phase in plan.phases}
    return [
        StageRow(
            name,
            shapes[name],
            sum(parameter.numel() for parameter in net.group(name).parameters()),
            name in net.trainable,
            phases := tuple(phase for phase, groups in trained.items() if name in groups),
            _when(phases, tuple(trained)),
        )
        for name in net.group_names
    ]


def _when(phases: tuple[str, ...], of: tuple[str, ...]) -> str:
    """Return in words in which phases a group trains, shortened where it does so to the end."""
    if not phases:
        return "never"
    if len(phases) > 1 and phases == of[-len(phases) :]:
        return "all phases" if phases == of else f"from {phases[0]}"
    return ", ".join(phases)


def stage_cells(rows: list[StageRow]) -> list[tuple[str, str, str, str, str]]:
    """Return the table's body as text, one tuple per row, the total last."""
    cells = [
        (
            row.name,
            " × ".join(map(str, row.output_shape)),
            f"{row.parameters:,}",
            "yes" if row.trainable_now else "frozen",
            row.when,
        )
        for row in rows
    ]
    now = sum(row.parameters for row in rows if row.trainable_now)
    return [*cells, ("total", "", f"{sum(row.parameters for row in rows):,}", f"{now:,}", "")]


HEADERS = ("stage", "output", "parameters", "trains now", "trains in phase")


def print_stage_table(console: Console, rows: list[StageRow]) -> None:
    """Print the stages, with their parameters summed below."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in HEADERS:
        table.add_column(header, justify="right" if header == "parameters" else "left", overflow="fold")
    *body, total = stage_cells(rows)
    for row, cells in zip(rows, body, strict=True):
        table.add_row(*cells, style="" if row.trainable_now else "dim")
    table.add_section()
    table.add_row(*total, style="bold")
    console.print(table)


class StageTable(L.Callback):
    """Prints the stages when the fit starts, and writes them as the text `stages` to TensorBoard.

    Args:
        image_size: Side of the images in pixels.
        plan: The run's phases (`tlab.finetuning.Plan`).
    """

    def __init__(self, image_size: int, plan: Any) -> None:
        self.image_size = image_size
        self.plan = plan

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print once per run, from the first process."""
        if not trainer.is_global_zero:
            return
        rows = stage_rows(pl_module.net, self.image_size, self.plan)  # type: ignore[arg-type]
        print_stage_table(get_console(), rows)  # which the progress bar uses too
        if (board := writer(trainer)) is not None:
            lines = [HEADERS, ("---",) * len(HEADERS), *stage_cells(rows)]
            board.add_text("stages", "\n".join(f"| {' | '.join(line)} |" for line in lines), 0)
