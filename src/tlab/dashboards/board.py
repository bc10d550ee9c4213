"""How every dashboard reaches TensorBoard: the writer to draw with, if there is one."""

import warnings
from typing import TYPE_CHECKING, cast

import lightning.pytorch as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter


def has_board(trainer: L.Trainer) -> bool:
    """Tell whether this run keeps a TensorBoard log; the answer is the same in every process."""
    return any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)


def collects(trainer: L.Trainer) -> bool:
    """Tell whether a dashboard gathers data now; every process does, since the counts are summed over them."""
    return has_board(trainer) and not trainer.sanity_checking


def class_names(pl_module: L.LightningModule) -> tuple[str, ...]:
    """Return the names that the module keeps as `classes`, in the order of its logits."""
    return cast(tuple[str, ...], pl_module.classes)


def writer(trainer: L.Trainer) -> "SummaryWriter | None":
    """Return what to draw with: None without TensorBoard, off the first process, and in the sanity check."""
    if trainer.sanity_checking or not trainer.is_global_zero:
        return None
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return loggers[0].experiment if loggers else None


def add_figure(board: "SummaryWriter", tag: str, figure: "Figure", step: int) -> None:
    """Render `figure` and write it as a PNG image.

    `SummaryWriter.add_figure` would import pyplot, which is slow and takes hold of a display.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a class name in a script the font lacks
        canvas.draw()
    board.add_image(tag, np.asarray(canvas.buffer_rgba())[..., :3], step, dataformats="HWC")
