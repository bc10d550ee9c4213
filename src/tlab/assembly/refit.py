"""`refit=true`: when the best epoch is known, the same training once more, on train and val together."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from tlab.assembly.build import adapt_batchnorm, build_backbone, build_module, build_net, build_trainer
from tlab.assembly.callbacks import build_refit_callbacks, refusals_told
from tlab.assembly.uncertainty import add_uncertainty
from tlab.core.errors import UserError
from tlab.core.processes import first_process_first, from_first_process
from tlab.core.text import counted

log = logging.getLogger(__name__)

if TYPE_CHECKING:  # torch is imported when a run begins, not for --help
    import lightning.pytorch as L

    from tlab.data.datamodule import ImageDataModule
    from tlab.finetuning import RunState
    from tlab.models.autotune.precision import Precision
    from tlab.models.classifier import Classifier
    from tlab.models.module import ImageClassifier
    from tlab.runs.directory import RunDirectory
    from tlab.runs.graceful_stop import StopSignals


@dataclass
class Refit:
    """The second training of a run, whose first one has chosen the number of epochs by validation.

    It begins with the same seed, weights, normalization and BatchNorm statistics, and goes through the same phases
    at the same rates (`RunState.plan_to_best`) up to the best epoch; only its epochs have more images, and so more
    steps. Nothing is validated: early stopping, pruning and the rate finder have nothing to go by, a schedule that
    goes by a metric gets that of the first training, and a solved head its strength of the penalty. The run's
    metrics stay those of the first training.

    Attributes:
        cfg: The run's configuration, with what the run has decided.
        config: The configuration as its checkpoints keep it.
        overrides: Overrides that it was composed from.
        begun: Record with which the first training was resumed; empty where it was not.
        state: State of the first training, which is over.
        precision: The run's precision.
        compiled: Names of the phases whose trainable part is compiled.
    """

    cfg: DictConfig
    config: dict[str, Any]
    overrides: list[str]
    begun: dict[str, Any]
    state: "RunState"
    precision: "Precision"
    compiled: list[str]

    def train(self, run: "RunDirectory", data: "ImageDataModule", signals: "StopSignals") -> None:
        """Train, or resume, and write `refit.ckpt`; nothing where that is done.

        Args:
            run: The run's directory.
            data: The run's data, as split for the first training.
            signals: Signals that may stop the run.

        Raises:
            UserError: The weights of the start are not there any more, the features on which the head is solved
                cannot be stored, or one of the user's callbacks has ended training.
        """
        from tlab.finetuning import RunState
        from tlab.finetuning.solved_head import NoStoredFeatures
        from tlab.runs.checkpoints import resumable

        if from_first_process(getattr, run, "is_refitted"):
            return
        joined, own, monitor = data.joined(), RunState(self.state.plan_to_best()), self.cfg.checkpoint.monitor
        images, epochs = len(joined.samples("train")), own.plan.epochs
        log.info(
            "refit: %s, train and val together, to epoch %d, the best by %s",
            *(counted(images, "image"), epochs, monitor),
        )
        net = self._start(data)
        module = build_module(self.cfg, self.config, net, joined, own.plan, self.precision, self.compiled)
        callbacks = build_refit_callbacks(self.cfg, run.refitting, own, self.state.rows, signals)
        trainer = build_trainer(self.cfg, run.refitting, self.precision, own.plan, callbacks, [])
        trainer.limit_val_batches = 0
        checkpoint: Path | None = from_first_process(resumable, run.refitting)
        if checkpoint is not None:
            log.info("refit: resuming from %s", checkpoint)
        try:
            with refusals_told():
                trainer.fit(module, datamodule=joined, ckpt_path=checkpoint, weights_only=True)
        except NoStoredFeatures as error:  # else the run would begin anew, with a head that takes steps
            raise UserError(
                "refit=true: the features of train and val together, on which the head is solved, cannot be stored;"
                " make room for them, or name a folder that has it with TLAB_CACHE, and give the same command again"
            ) from error
        if len(own.rows) < epochs:
            raise UserError(
                f"callbacks: one of them has ended the refit after {len(own.rows)} of {counted(epochs, 'epoch')}; "
                "leave it out, or give refit=false"
            )
        from_first_process(self._write, run, trainer, module, joined)

    def _write(
        self, run: "RunDirectory", trainer: "L.Trainer", module: "ImageClassifier", joined: "ImageDataModule"
    ) -> None:
        """Write `refit.ckpt`, and record what it comes from."""
        from tlab.runs.checkpoints import refit_checkpoint, write_checkpoint

        images, monitor = len(joined.samples("train")), self.cfg.checkpoint.monitor
        checkpoint, validated = refit_checkpoint(run, images, monitor)
        add_uncertainty(self.cfg, checkpoint, run.refit.name, trainer, module, joined, validated)
        write_checkpoint(checkpoint, run.refit)
        run.update(refit=checkpoint["tlab"]["refit"])

    def _start(self, data: "ImageDataModule") -> "Classifier":
        """Return the network as the run began with it.

        Raises:
            UserError: The weights cannot be read, or are others by now.
        """
        import lightning.pytorch as L

        L.seed_everything(self.cfg.seed, workers=True, verbose=False)
        with _told_before(), first_process_first():
            backbone = build_backbone(self.cfg, self.begun, given=self.overrides)
            net = build_net(self.cfg, backbone, data)
        found = backbone.pretraining.digest
        if self.begun.get("weights_digest", found) != found:
            raise UserError(
                f"backbone.weights={self.cfg.backbone.weights} are not those that the run began with, and its "
                "refit begins with the same; put them back, or give another hydra.run.dir"
            )
        with _told_before():
            adapt_batchnorm(self.cfg, net, data, self.state.plan, None)
        return net


@contextmanager
def _told_before() -> Iterator[None]:
    """Keep what building the same network has logged before from being logged again."""
    logger = logging.getLogger("tlab")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
