"""The callback that looks for a learning rate when a phase begins."""

import logging
import time
from collections.abc import Callable
from itertools import count

import lightning.pytorch as L

from tlab.data.loader import Loader, make_loader
from tlab.data.order import EpochSampler, Key
from tlab.finetuning.lr_finder import STEPS, LrCurve, find_lr
from tlab.finetuning.state import RunState
from tlab.models.module import ImageClassifier

log = logging.getLogger(__name__)


class LearningRateFinder(L.Callback):
    """Suggests a value for `optimizer.lr` when a phase begins, and where a run goes on, and changes nothing.

    The batches have the addresses (epoch, index) of the epochs that are about to come, and loader and workers of
    their own. With several processes each computes the same on the same batches without speaking to the others:
    none can wait for another, and what they train is not touched. A batch is one process's, also where gradients
    are accumulated.

    Args:
        state: Knows the phase and its rate scales.
        draw: Draws (trainer, phase's name, curve).
        steps: At most so many training steps for each phase.
    """

    def __init__(
        self,
        state: RunState,
        draw: Callable[[L.Trainer, str, LrCurve], None] | None = None,
        steps: int = STEPS,
    ) -> None:
        self.state = state
        self.draw = draw
        self.steps = steps
        self._found = ""  # name of the last phase

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find a rate if the phase is a new one."""
        phase = self.state.phase.name
        if phase == self._found:
            return
        self._found = phase
        assert isinstance(pl_module, ImageClassifier)
        assert isinstance(trainer.train_dataloader, Loader)
        started = time.perf_counter()
        batches = iter(trial_loader(trainer.train_dataloader, trainer.current_epoch, self.steps))
        try:
            curve = find_lr(
                pl_module,
                batches,
                self.state.scales,
                precision=str(trainer.precision),
                gradient_clip_val=trainer.gradient_clip_val,
                steps=self.steps,
            )
        finally:
            batches.close()  # type: ignore[attr-defined]  # ends its worker processes now
        if trainer.is_global_zero:
            log.info("%s (%.0f s)", sentence(phase, curve), time.perf_counter() - started)
            if self.draw is not None:
                self.draw(trainer, phase, curve)


def trial_loader(loader: Loader, epoch: int, steps: int) -> Loader:
    """Return another loader over the data set of `loader`, for `steps` batches of epoch `epoch` and those after it.

    All batches are whole, or all hold the whole split where it is smaller than a batch.
    """
    sampler = loader.sampler
    assert isinstance(sampler, EpochSampler)
    assert loader.batch_size is not None
    size = min(loader.batch_size, len(sampler.labels))
    whole = len(sampler.labels) // size * size
    keys: list[Key] = []
    for later in count(epoch):
        if len(keys) >= steps * size:
            break
        keys += [key._replace(phase=sampler.phase) for key in sampler.keys(later)[:whole]]
    return make_loader(loader.dataset, keys[: steps * size], size, loader.num_workers)  # type: ignore[arg-type]


def sentence(phase: str, curve: LrCurve) -> str:
    """Return what was found, in words."""
    if curve.suggestion is None:
        return f"phase {phase}: no optimizer.lr suggested, {curve.why}; the run uses {curve.in_use:.3g}"
    return (
        f"phase {phase}: optimizer.lr={curve.suggestion:.2g} suggested (steepest descent), "
        f"the run uses {curve.in_use:.3g}"
    )
