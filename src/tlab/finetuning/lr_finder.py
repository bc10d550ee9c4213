"""Learning-rate range test (Smith 2017, arXiv:1506.01186, section 3.3) on a copy of the network.

The copy takes a few training steps at a rate that rises exponentially; the rate at which the loss falls fastest is
the suggestion: an order of magnitude, where the batches scatter. Lightning 2.6's `Tuner.lr_find` is not used: it
steps the run's own optimizer, whose hooks advance the phase's schedule with every trial step, it takes no step at
all where a later phase begins, and meanwhile it keeps a checkpoint in the run directory.
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count

import lightning.pytorch as L
import numpy as np
import torch

from tlab.core.text import counted
from tlab.data.batch import Batch
from tlab.data.loader import Loader, make_loader
from tlab.data.sampler import EpochSampler, SampleKey, kept_random_state
from tlab.finetuning.run_state import RunState
from tlab.models.autotune.precision import autocast
from tlab.models.module import ImageClassifier

log = logging.getLogger(__name__)

START, END, STEPS = 1e-6, 10.0, 100
BETA = 0.9  # decay of the moving average that detects divergence: it looks back over about 10 steps
WARM = 10  # steps within which a single batch could pass for the best loss
DIVERGED = 4.0  # times the best moving average, as in fastai
WIDTH = 7.0  # steps, half a decade of the rate: standard deviation of the window that smooths the curve


@dataclass(frozen=True)
class LrCurve:
    """The loss against the learning rate.

    Attributes:
        rates: Values of `optimizer.lr`, rising; one per step.
        losses: Training loss of each step's batch, before the step.
        smoothed: The losses averaged over neighboring steps.
        suggestion: The rate of steepest descent; None where the curve never falls.
        why: Reason why there is no suggestion, else "".
        in_use: Value of `optimizer.lr` in the run.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None
    why: str
    in_use: float


def find_lr(
    module: ImageClassifier,
    batches: Iterable[Batch],
    scales: Mapping[str, float],
    precision: str = "32-true",
    gradient_clip_val: float | None = None,
    steps: int = STEPS,
) -> LrCurve:
    """Measure the loss of `module` at rates that rise from `START` to `END`.

    The module and the random state of torch, numpy and Python stay as they are. The optimizer is a fresh one, the
    network a copy with what is frozen now.

    Args:
        module: The module with network, loss and optimizer.
        batches: Training batches, at least `steps` of them; the first ones are used.
        scales: Each group's factor on the rate in the phase.
        precision: `32-true`, `bf16-mixed` or `16-mixed`.
        gradient_clip_val: Largest gradient norm; None for no limit.
        steps: Number of steps, unless the loss diverges before.
    """
    net, criterion = copy.deepcopy(module.net).train(), copy.deepcopy(module.loss)
    optimizer = module.optimizer_for(net, criterion)
    in_use = float(optimizer.defaults["lr"])
    device = next(net.parameters()).device
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "16-mixed")
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]

    def step(rate: float, batch: Batch) -> float:
        for group in optimizer.param_groups:
            group["lr"] = rate * scales[group["group"]]
        with autocast(device, precision):
            moved = batch._replace(image=batch.image.to(device), label=batch.label.to(device))
            loss, _ = module.loss_of(net, moved, criterion)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        if gradient_clip_val is not None:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    with kept_random_state(device):
        rates, losses = range_test(step, batches, START, END, steps)
    return LrCurve(rates, losses, smooth(losses), *suggest(rates, losses), in_use)


def range_test(
    step: Callable[[float, Batch], float], batches: Iterable[Batch], start: float, end: float, steps: int
) -> tuple[list[float], list[float]]:
    """Take steps at rates from `start` to `end`, equally spaced in their logarithm, until the loss diverges.

    It has diverged when it is not finite, or when its bias-corrected moving average over the last steps is four
    times the best one so far.

    Args:
        step: Function (rate, batch) -> loss before the step.
        batches: Batch of each step.
        start: First rate.
        end: Last rate.
        steps: Number of rates.

    Returns:
        Rates and losses, equally many and all finite.
    """
    rates, losses = [float(rate) for rate in np.geomspace(start, end, steps)], []
    average, best = 0.0, math.inf
    for number, (rate, batch) in enumerate(zip(rates, batches, strict=False), start=1):
        loss = step(rate, batch)
        if not math.isfinite(loss):
            break
        losses.append(loss)
        average = BETA * average + (1 - BETA) * loss
        corrected = average / (1 - BETA**number)
        if number >= WARM:
            best = min(best, corrected)
            if corrected > DIVERGED * best:
                break
    return rates[: len(losses)], losses


def smooth(losses: list[float]) -> list[float]:
    """Return the losses averaged over their neighbors on both sides, with Gaussian weights.

    A moving average that looks back only, as fastai's and Lightning's, would draw the curve too far to the right,
    and one with longer tails would let the divergence at the end fill the valley before it.
    """
    place = np.arange(len(losses))
    weights = np.exp(-0.5 * ((place[:, None] - place[None, :]) / WIDTH) ** 2)
    return [float(value) for value in weights @ np.array(losses) / weights.sum(axis=1)]


def suggest(rates: list[float], losses: list[float]) -> tuple[float | None, str]:
    """Return the rate at which the smoothed loss falls fastest on its way to its minimum, and "".

    The slope is taken over the logarithm of the rate. Where the loss does not fall by more than it scatters
    around the smoothed curve there is nothing to suggest: None, and the reason.
    """
    if len(losses) <= WARM:
        return None, f"the loss diverged within {counted(losses, 'step')}, before a curve could be seen"
    smoothed = np.array(smooth(losses))
    lowest = int(smoothed.argmin())
    before = slice(0, lowest + 1)
    scatter = float(np.std(np.array(losses)[before] - smoothed[before]))
    fall = float(smoothed[0] - smoothed[lowest])
    if lowest < 2 or fall <= scatter:
        return None, f"the loss never fell by more than its scatter from batch to batch ({scatter:.2g})"
    slope = np.gradient(smoothed[before], np.log(np.array(rates)[before]))
    return rates[int(slope.argmin())], ""


class LearningRateFinder(L.Callback):
    """Suggests a value for `optimizer.lr` when a phase begins or a run is resumed, and changes nothing.

    The batches have the addresses (epoch, index) of the coming epochs, and a loader and workers of their own. With
    several processes each computes the same on the same batches without communication: none can wait for another,
    and what they train is not touched. A batch is one process's, also where gradients are accumulated.

    Args:
        state: The run's state, with the phase and its rate scales.
        draw: Function (trainer, name of the phase, curve) that draws the curve; None draws nothing.
        steps: Maximum number of training steps for each phase.
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
        if self.state.phase.solved:
            log.info("phase %s: no optimizer.lr suggested, the head is solved; head.solver=sgd trains it", phase)
            return
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
            log.info("%s (%.0f s)", findings(phase, curve), time.perf_counter() - started)
            if self.draw is not None:
                self.draw(trainer, phase, curve)


def trial_loader(loader: Loader, epoch: int, steps: int) -> Loader:
    """Return another loader over the images of `loader`, for `steps` batches from epoch `epoch` on.

    All batches are whole, or all hold the whole split where it is smaller than a batch.
    """
    sampler = loader.sampler
    assert isinstance(sampler, EpochSampler)
    assert loader.batch_size is not None
    size = min(loader.batch_size, len(sampler.labels))
    whole = len(sampler.labels) // size * size
    keys: list[SampleKey] = []
    for later in count(epoch):
        if not (missing := steps * size - len(keys)):
            break
        keys += sampler.keys(later)[: min(whole, missing)]
    return make_loader(loader.images, keys, size, loader.num_workers)


def findings(phase: str, curve: LrCurve) -> str:
    """Return what was found, in words."""
    if curve.suggestion is None:
        return f"phase {phase}: no optimizer.lr suggested, {curve.why}; the run uses {curve.in_use:.3g}"
    return (
        f"phase {phase}: optimizer.lr={curve.suggestion:.2g} suggested (steepest descent), "
        f"the run uses {curve.in_use:.3g}"
    )
