"""The loss against the learning rate, as the learning-rate finder measured it."""

from typing import TYPE_CHECKING

import lightning.pytorch as L

from tlab.dashboards.figures import DPI
from tlab.dashboards.tensorboard import add_figure, writer
from tlab.finetuning.lr_finder import LrCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_lr_curve(trainer: L.Trainer, phase: str, curve: LrCurve) -> None:
    """Draw `lr_finder/<phase>` in TensorBoard, at the step at which the phase begins."""
    if (board := writer(trainer)) is not None:
        add_figure(board, f"lr_finder/{phase}", lr_figure(curve, f"Phase {phase}"), trainer.global_step)


def lr_figure(curve: LrCurve, title: str) -> "Figure":
    """Draw the loss of each step and the smoothed loss over the logarithm of the rate.

    The suggestion and the rate in use are marked. The loss's axis ends a little above where the smoothed curve
    began, so that the divergence at the right does not flatten the descent.

    Args:
        curve: The measured curve.
        title: Heading of the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(curve.rates, curve.losses, ".", color="0.7", markersize=4, label="loss of a batch")
    axes.plot(curve.rates, curve.smoothed, color="tab:blue", label="smoothed")
    if curve.suggestion is not None:
        axes.axvline(curve.suggestion, color="tab:green", label=f"suggested: {curve.suggestion:.2g}")
    axes.axvline(curve.in_use, color="tab:orange", linestyle="--", label=f"in use: {curve.in_use:.2g}")
    if curve.smoothed:
        low, high = min(curve.smoothed), max(curve.smoothed[: len(curve.smoothed) // 2 + 1])
        room = max(high - low, 0.05 * abs(high), 1e-6)
        axes.set_ylim(low - 0.3 * room, high + 0.6 * room)
    axes.set_xscale("log")
    axes.set(xlabel="optimizer.lr", ylabel="training loss")
    axes.set_title(title, fontsize=11, parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=8)
    return figure
