"""Exponential moving average of the weights, which is validated, kept and tested in their place."""

from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from tlab.models.classifier import Classifier
from tlab.models.module import network

RAW = "current_model_state"  # key of a checkpoint; Lightning's WeightAveraging uses the same


class EMA(L.Callback):
    """Averages the weights after every optimizer step: average += (1 - d) * (weights - average).

    In step t (from 0), d = min(decay, (1 + t) / (10 + t)), as TensorFlow's ExponentialMovingAverage has it with
    `num_updates`: a short run would otherwise end as an average of mostly its start (0.999 looks back over a
    thousand steps; the warm-up reaches it after 8990).

    BatchNorm's running statistics are averaged alike. Integer buffers are copied, and so is what is frozen: frozen
    stages of the average equal those of the weights bit by bit, also in a phase that freezes what an earlier one
    trained. Training itself never sees the average. Validation runs on it; checkpoints hold it under `state_dict`,
    and the weights under `current_model_state` to resume from. After `fit` the network has the average.

    Lightning 2.6's EMAWeightAveraging has no warm-up, its d * a + (1 - d) * b rounds, so that frozen tensors drift,
    and it averages integer counters.

    Args:
        decay: Upper bound of d, in 0..1.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.steps = 0
        self._seen = 0  # optimizer steps of the trainer when the average was last moved
        self._raw: dict[str, Tensor] | None = None  # the weights, while the network has the average
        self._trainable: frozenset[str] | None = None  # the groups that train, and belong to the weights below
        self._moving: dict[str, Tensor] = {}  # weights that train: floating-point tensors
        self._counts: dict[str, Tensor] = {}  # and integer tensors

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with the weights as they are, unless a checkpoint brought an average."""
        weights = network(pl_module).state_dict()
        if not self.average:
            self.steps = self._seen = 0
        known = self.average or weights
        self.average = {name: known[name].to(tensor.device, copy=True) for name, tensor in weights.items()}
        self._trainable = None

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the average, if the optimizer has stepped (it may accumulate batches)."""
        if trainer.global_step == self._seen:
            return
        if self._trainable != network(pl_module).trainable:
            self._enter(network(pl_module))
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_([self.average[name] for name in self._moving], [*self._moving.values()], 1 - decay)
        for name, count in self._counts.items():
            self.average[name].copy_(count)
        self.steps += 1
        self._seen = trainer.global_step

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the average into the network."""
        self._put_average(pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the weights back."""
        if self._raw is not None:
            network(pl_module).load_state_dict(self._raw)  # in place: the optimizer keeps the same parameters
            self._raw = None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the average in the network."""
        self._put_average(pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Drop average and weights; a later validation or test takes the network as it is."""
        self.average, self._raw = {}, None
        self._moving, self._counts = {}, {}

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average as the model, and the weights beside it, whichever of them the network has."""
        if self.average:
            state = checkpoint["state_dict"]
            for key, values in ((RAW, self._raw or {}), ("state_dict", self.average)):
                checkpoint[key] = state | {f"net.{name}": value for name, value in values.items()}

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the average and the weights (by now Lightning has loaded the average into the network)."""
        self.average, self._raw = {}, None
        if RAW in checkpoint:  # a learning-rate finder saves before there is an average
            state = checkpoint["state_dict"]
            self.average = {name: state[f"net.{name}"].clone() for name in network(pl_module).state_dict()}
            pl_module.load_state_dict(checkpoint[RAW])

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers of steps."""
        return {"steps": self.steps, "seen": self._seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the numbers of steps."""
        self.steps, self._seen = state_dict["steps"], state_dict["seen"]

    def _enter(self, net: Classifier) -> None:
        """Collect what trains from now on, and copy what is frozen: once, since it does not change."""
        frozen = {
            id(tensor)
            for name in set(net.group_names) - net.trainable
            for tensor in net.group(name).state_dict(keep_vars=True).values()
        }
        self._moving, self._counts = {}, {}
        for name, tensor in net.state_dict(keep_vars=True).items():
            if id(tensor) in frozen:
                self.average[name].copy_(tensor)
            else:
                (self._moving if tensor.is_floating_point() else self._counts)[name] = tensor
        self._trainable = net.trainable

    def _put_average(self, pl_module: L.LightningModule) -> None:
        if self.average and self._raw is None:
            net = network(pl_module)
            self._raw = {name: tensor.clone() for name, tensor in net.state_dict().items()}
            net.load_state_dict(self.average)
