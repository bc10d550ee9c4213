"""TensorBoard's event files, which a run outlasts: where the disk is full, they end early."""

import logging
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.writer import FileWriter

log = logging.getLogger(__name__)


class RunWriter(SummaryWriter):
    """Writes a run's event files until one cannot be written."""

    def _get_file_writer(self) -> FileWriter:
        new = self.file_writer is None
        writer: FileWriter = super()._get_file_writer()
        if new:  # the file itself, since a thread writes to it, which would print a traceback
            records = writer.event_writer._async_writer._writer
            records._writer = _Outlasted(records._writer, str(self.log_dir))
        return writer


class _Outlasted:
    """A file that takes no more after the first failure, which is logged."""

    def __init__(self, file: Any, folder: str) -> None:
        self.file, self.folder = file, folder
        self.gone = False

    def write(self, data: bytes) -> None:
        """Write `data`."""
        self._try("write", data)

    def flush(self) -> None:
        """Write what is still in memory."""
        self._try("flush")

    def close(self) -> None:
        """Close the file."""
        self._try("close")

    def _try(self, method: str, *data: bytes) -> None:
        try:
            if not self.gone:
                getattr(self.file, method)(*data)
        except OSError as error:
            self.gone = True
            log.warning("TensorBoard's file in %s ends here (%s); the run goes on", self.folder, error.strerror)
