"""Terminal output during a run: a progress bar where there is a terminal, and a line per epoch."""

import sys

import lightning.pytorch as L
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console

from tlab.finetuning.run_state import RunState


class EpochLines(L.Callback):
    """Prints one line per epoch: epoch, phase, loss and accuracy, speed.

    Args:
        state: The run's state.
    """

    def __init__(self, state: RunState) -> None:
        self.state = state
        self.console = Console(highlight=False, soft_wrap=True)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the line of the epoch that has just ended."""
        if not trainer.is_global_zero:
            return
        row = self.state.rows[-1]
        figures = "  ".join(
            f"{name} {row[name]:.4f}" for name in ("train/loss", "val/loss", "val/acc") if name in row
        )
        self.console.print(
            f"epoch {row['epoch'] + 1:>3}/{trainer.max_epochs}  {row['phase']:<8}  {figures}  "
            f"{row['images_per_second']:,.0f} images/s"
        )


def progress(state: RunState) -> list[L.Callback]:
    """Return the callbacks that show progress on this terminal."""
    bar: list[L.Callback] = [RichProgressBar(leave=False)] if sys.stdout.isatty() else []
    return [EpochLines(state), *bar]
