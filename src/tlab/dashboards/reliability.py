"""The reliability diagram in TensorBoard."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L
import numpy as np

from tlab.core.text import counted
from tlab.dashboards.figures import reliability_figure
from tlab.dashboards.tensorboard import add_drawing, writer


def draw_reliability(trainer: L.Trainer, about: Mapping[str, Any]) -> None:
    """Draw `val/reliability` of the selected checkpoint: its probabilities as they are, and with its temperature.

    Args:
        trainer: The run's trainer.
        about: What the checkpoint says of itself, with `temperature` and `calibration`.
    """
    if (board := writer(trainer)) is None:
        return
    found, temperature = about["calibration"], about["temperature"]
    shown = {f"as they are: ECE {found['ece']:.3f}": np.array(found["reliability"])}
    if temperature != 1:
        shown[f"temperature {temperature:.3g}: ECE {found['ece_scaled']:.3f}"] = np.array(
            found["reliability_scaled"]
        )
    title = f"Probabilities in validation, {counted(found['images'], 'image')}"
    add_drawing(board, "val/reliability", reliability_figure(shown, title), trainer.global_step)
