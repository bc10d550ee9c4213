"""The joint pass: the heads of several runs train on the same stored features, all in each step."""

import copy
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tlab.data.batch import Batch
from tlab.data.feature_batches import FeatureBatches
from tlab.data.sampler import EpochSampler, SampleKey, addressed_seed
from tlab.finetuning.many_heads.head_batch import HeadBatch, draw_noise
from tlab.finetuning.schedules import PhasedScheduler
from tlab.models.head import Head
from tlab.models.losses import Loss


@dataclass
class HeadOfRun:
    """What trains the head of one run.

    Attributes:
        head: The head, as it is before training.
        loss: The run's loss.
        optimizer: Optimizer of the head's parameters, in groups as the run has them.
        scheduler: Schedule of these groups, at the start of the phase.
        sampler: Order of the run's images.
        seed: The run's seed.
    """

    head: Head
    loss: Loss
    optimizer: Optimizer
    scheduler: PhasedScheduler
    sampler: EpochSampler
    seed: int


@dataclass
class HeadEpoch:
    """A head at the end of an epoch, and what its run tells of the epoch.

    Attributes:
        head: The head's `state_dict`.
        optimizer: The optimizer's state of each of the head's parameters.
        loss: Sum of the training loss over the images, as the run's metric adds it up.
        correct: Number of images whose class had the largest logit, in training mode.
        gradient_norms: 2-norm of the gradient in each step.
        seconds: The head's share of the time.
    """

    head: dict[str, Tensor]
    optimizer: list[dict[str, Any]]
    loss: float
    correct: int
    gradient_norms: list[float]
    seconds: float


def train_jointly(
    runs: Sequence[HeadOfRun],
    features: FeatureBatches,
    epochs: range,
    *,
    precision: str,
    scales: Mapping[str, float],
    weight_decay: float | None,
    between_steps: Callable[[], object],
) -> list[list[HeadEpoch]]:
    """Train the heads as their runs would alone: the same order of images, dropout, rates and arithmetic.

    A step is one forward and backward pass and one step of one optimizer, whatever the number of heads.

    Args:
        runs: The runs: heads that are alike but for dropout, optimizers of one class, batches of the same sizes.
        features: Pooled features of the training images.
        epochs: Numbers of the phase's epochs.
        precision: `32-true` or `bf16-mixed`.
        scales: Factor on the rate of each group.
        weight_decay: Weight decay of the phase; None: the optimizers'.
        between_steps: Called after each step; ends the pass by an exception.

    Returns:
        For each run its epochs; none for a run whose loss was not finite, which trains alone and says so.
    """
    heads = HeadBatch([run.head.train() for run in runs])
    parameters = [[*run.head.parameters()] for run in runs]
    optimizer = _of_all([run.optimizer for run in runs])
    for run in runs:
        run.optimizer._opt_called = True  # type: ignore[attr-defined]  # else torch warns that it takes no steps
    recorded: list[list[HeadEpoch]] = [[] for _ in runs]
    finite = torch.ones(len(runs), dtype=torch.bool)
    for epoch in epochs:
        began = time.perf_counter()
        loss_sums, correct = torch.zeros(len(runs)), torch.zeros(len(runs), dtype=torch.int64)
        norms = []
        for number, batches in enumerate(_batches(runs, features, epoch)):
            noise = _noise(runs, batches, epoch, number)
            with _autocast(precision):
                logits = heads([batch.image for batch in batches], noise).float()
                losses = torch.stack(
                    [run.loss(own, batch.label) for run, own, batch in zip(runs, logits, batches, strict=True)]
                )
            losses.sum().backward()
            norms.append(heads.gradient_norms())
            for run in runs:
                run.scheduler.scale_groups(scales, weight_decay)
            optimizer.step()
            for run in runs:
                run.scheduler.restore_groups()
            heads.zero_grad()
            size = len(batches[0].image)
            finite &= losses.detach().isfinite()
            loss_sums += (losses.detach()[:, None].expand(-1, size) * 1.0).sum(dim=1)
            correct += _correct(logits.detach(), batches)
            between_steps()
        for run in runs:
            run.scheduler.after_epoch({})
        drawn = torch.stack(norms, dim=1).tolist()
        sums, hits = loss_sums.tolist(), correct.tolist()
        seconds = (time.perf_counter() - began) / len(runs)
        for number, (run, own) in enumerate(zip(runs, parameters, strict=True)):
            head = {key: value.clone() for key, value in run.head.state_dict().items()}
            state = [{key: _kept(value) for key, value in optimizer.state[each].items()} for each in own]
            recorded[number].append(HeadEpoch(head, state, sums[number], hits[number], drawn[number], seconds))
    return [own if well else [] for own, well in zip(recorded, finite.tolist(), strict=True)]


def _of_all(optimizers: Sequence[Optimizer]) -> Optimizer:
    """Return one optimizer of all groups, which remain those of the given ones."""
    together = copy.copy(optimizers[0])
    together.param_groups = list(itertools.chain(*(optimizer.param_groups for optimizer in optimizers)))
    together.state = defaultdict(dict)
    return together


def _batches(runs: Sequence[HeadOfRun], features: FeatureBatches, epoch: int) -> Iterator[list[Batch]]:
    """Yield the batches of an epoch's steps, one for each run; runs of one order share theirs."""
    keys: dict[int, list[SampleKey]] = {}
    for sampler in {id(run.sampler): run.sampler for run in runs}.values():
        sampler.set_epoch(epoch)
        keys[id(sampler)] = [*sampler]
    size = runs[0].sampler.batch_size
    for start in range(0, len(keys[id(runs[0].sampler)]), size):
        batches = {sampler: features.batch(own[start : start + size]) for sampler, own in keys.items()}
        yield [batches[id(run.sampler)] for run in runs]


def _noise(
    runs: Sequence[HeadOfRun], batches: Sequence[Batch], epoch: int, number: int
) -> list[list[Tensor] | None]:
    """Return each run's dropout, as `AddressedRandomness` seeds it; the same object where it is the same."""
    drawn: dict[tuple[int, float], list[Tensor] | None] = {}
    for run, batch in zip(runs, batches, strict=True):
        if (key := (run.seed, run.head.dropout.p)) not in drawn:
            drawn[key] = draw_noise(run.head, batch.image, addressed_seed(run.seed, "dropout", epoch, number, 0))
    return [drawn[run.seed, run.head.dropout.p] for run in runs]


def _correct(logits_KBC: Tensor, batches: Sequence[Batch]) -> Tensor:
    """Return how many images each head classifies as they are labeled; of mixed ones the larger share counts."""
    labels = torch.stack([batch.label if batch.label.ndim == 1 else batch.label.argmax(dim=1) for batch in batches])
    return (logits_KBC.argmax(dim=2) == labels).sum(dim=1)


def _autocast(precision: str) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else nullcontext()


def _kept(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
