"""The dashboards' access to TensorBoard: the run's writer, if there is one, and functions that add images."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import cv2
import lightning.pytorch as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment

from tlab.core.errors import UserError
from tlab.core.text import as_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 92, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


class RunBoard(TensorBoardLogger):
    """TensorBoard's log of a run, without the chart of epoch numbers that Lightning adds.

    Args:
        save_dir: Folder of the log.
        **options: Further arguments of Lightning's logger.

    Raises:
        UserError: The folder's name is not UTF-8, or is not read as such in this locale: TensorBoard cannot write.
    """

    def __init__(self, save_dir: str, **options: Any) -> None:
        if as_text(str(save_dir)) != str(save_dir):
            raise UserError(
                f"TensorBoard cannot write into {save_dir}, whose name is no UTF-8 text here; give logger=none, "
                f"another hydra.run.dir, or, where only the locale is not UTF-8, PYTHONUTF8=1 before the command"
            )
        super().__init__(save_dir, **options)

    @property
    @rank_zero_experiment
    def experiment(self) -> "SummaryWriter":
        """The writer of the run's event files."""
        if self._experiment is None:
            from tlab.dashboards.event_files import RunWriter  # late, as TensorBoard's import is long

            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = RunWriter(log_dir=self.log_dir, **self._kwargs)
        return self._experiment

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Draw `metrics` at `step`."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


def collects(trainer: L.Trainer) -> bool:
    """Tell whether a dashboard gathers data now; every process does, since the counts are summed over them."""
    return not trainer.sanity_checking and any(isinstance(each, TensorBoardLogger) for each in trainer.loggers)


def class_names(pl_module: L.LightningModule) -> tuple[str, ...]:
    """Return the names that the module keeps as `classes`, in the order of its logits."""
    return cast(tuple[str, ...], pl_module.classes)


def writer(trainer: L.Trainer) -> "SummaryWriter | None":
    """Return the TensorBoard writer; None without TensorBoard, off the first process, and in the sanity check."""
    if trainer.sanity_checking or not trainer.is_global_zero:
        return None
    return next((each.experiment for each in trainer.loggers if isinstance(each, TensorBoardLogger)), None)


def add_figure(board: "SummaryWriter", tag: str, figure: "Figure", step: int) -> None:
    """Render `figure` and write it as a PNG image.

    `SummaryWriter.add_figure` would import pyplot, which is slow and takes hold of a display.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a class name in a script the font lacks
        canvas.draw()
    add_drawing(board, tag, np.asarray(canvas.buffer_rgba())[..., :3], step)


def add_drawing(board: "SummaryWriter", tag: str, rgb_HWC: np.ndarray, step: int) -> None:
    """Write a drawing of few colors, `rgb_HWC` (uint8, `H W 3`), as a PNG image."""
    _add_encoded(board, tag, rgb_HWC, ".png", PNG, step)


def add_photos(board: "SummaryWriter", tag: str, rgb_HWC: np.ndarray, step: int) -> None:
    """Write a figure of photographs, `rgb_HWC` (uint8, `H W 3`), as a JPEG image with colors in full resolution.

    A PNG of photographs has a megabyte, whose checksum TensorBoard's writer computes in Python: 0.1 s each.
    `SummaryWriter.add_image` would convert to float and back, resample, and search long for the smallest PNG.
    """
    _add_encoded(board, tag, rgb_HWC, ".jpg", JPEG, step)


def _add_encoded(
    board: "SummaryWriter", tag: str, rgb_HWC: np.ndarray, suffix: str, options: list[int], step: int
) -> None:
    from tensorboard.compat.proto.summary_pb2 import Summary

    _, encoded = cv2.imencode(suffix, np.ascontiguousarray(rgb_HWC[..., ::-1]), options)
    height, width = rgb_HWC.shape[:2]
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded.tobytes())
    board._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
