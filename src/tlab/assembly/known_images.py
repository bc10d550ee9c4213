"""The callback by which a run that trains its head alone knows its images before the checkpoints are written."""

from typing import Any

import lightning.pytorch as L
import torch
from omegaconf import DictConfig
from torch import Tensor

from tlab.assembly.uncertainty import distribution_of, look, uncertainty_of
from tlab.core.processes import from_first_process
from tlab.data.datamodule import ImageDataModule
from tlab.data.feature_batches import FeatureBatches
from tlab.data.sources.folder import Sample
from tlab.finetuning import RunState
from tlab.models.autotune.precision import autocast
from tlab.models.module import ImageClassifier
from tlab.models.uncertainty.out_of_distribution import FeatureDistribution


class KnownImages(L.Callback):
    """Adds to the checkpoint of each epoch that is the best so far what `add_uncertainty` would add afterwards.

    Where the head trains on stored features that takes milliseconds, while the best checkpoint would have to be
    read and written once more. Where it does not, nothing is added.

    Args:
        cfg: The run's configuration, of phases that train the head alone.
        state: The run's state, with the best epoch so far.
    """

    def __init__(self, cfg: DictConfig, state: RunState) -> None:
        self.cfg, self.state = cfg, state
        self._epoch = -1
        self._kept: dict[str, Any] | None = None
        self._looked: tuple[FeatureDistribution | None, Tensor, list[Sample]] | None = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the images, if this epoch is the best so far; all processes answer alike."""
        if trainer.strategy.reduce_boolean_decision(self.state.best_epoch == trainer.current_epoch):
            from_first_process(self._look, trainer, pl_module)

    def _look(self, trainer: L.Trainer, module: ImageClassifier) -> None:
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self._epoch, self._kept, given = trainer.current_epoch, None, (self.cfg, trainer, module, data)
        if not all(_is_stored(loader) for loader in data.fit_loaders()):
            return
        if self._looked is None:
            self._looked = distribution_of(*look(*given, "train", True), data), *look(*given, "val", True)
        distribution, features, samples = self._looked
        if distribution is None:
            return
        head, device = module.net.head, trainer.strategy.root_device
        was_training = head.training
        with torch.inference_mode(), autocast(device, str(trainer.precision)):
            logits = head.eval()(features.to(device)).float().cpu()
        head.train(was_training)
        found = uncertainty_of(distribution, features, logits, samples, data)
        self._kept = None if found is None else found.plain()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add it to what the checkpoint says of its weights, if it is that of these weights."""
        if self._kept is not None and self._epoch == trainer.current_epoch:
            checkpoint.setdefault("tlab", {})["uncertainty"] = self._kept


def _is_stored(loader: Any) -> bool:
    """Tell whether a loader gives pooled features of images as evaluation sees them."""
    return isinstance(loader.source, FeatureBatches) and loader.source.is_pooled and loader.images.is_fixed
