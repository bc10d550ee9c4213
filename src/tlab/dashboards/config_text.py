"""The configuration of a run beside its curves."""

import lightning.pytorch as L

from tlab.dashboards.board import writer


class ConfigText(L.Callback):
    """Writes the configuration as the text `config` when the fit starts.

    Args:
        text: YAML.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write it as a block of code."""
        if (board := writer(trainer)) is not None:
            board.add_text("config", f"```yaml\n{self.text.rstrip()}\n```", 0)
