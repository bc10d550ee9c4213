"""The LightningModule around a Classifier: loss, metrics and optimizer."""

from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from tlab.core.errors import NotFinite, UserError
from tlab.models.classifier import Classifier
from tlab.models.losses import CrossEntropy, Loss, each

TOP5_FROM = 11  # classes from which top-5 accuracy says something
PER_CLASS_UP_TO = 100  # classes up to which each one gets a curve of its own
CHECK_LOSS_EVERY = 25  # steps between checks of the loss on an accelerator, where each check waits for the device

Net = Callable[[Tensor, str], Tensor]  # a `Classifier`, or an equivalent of one


class ImageClassifier(L.LightningModule):
    """Trains and measures a `Classifier`.

    `val/loss` and `test/loss` are means over the images of the loss in evaluation mode, in which tlab's own losses
    have neither label smoothing nor class weights.

    Args:
        net: Network that maps images `B C H W` (uint8, or float in 0..1) to logits `B K`.
        classes: Names of the K classes, in the order of the logits.
        optimizer: Builds the optimizer from its parameter groups (`torch.optim.SGD` with its settings bound).
        loss: Loss of logits and targets, see `models.losses`; its parameters, if any, train with the head's.
        class_weights: Weight of each class, `K` (float), for the values that the loss returns in training; None
            for equal weights, or where the loss itself has them.
        channels_last: Whether to use channels-last memory format, which is faster for convolutions.
        about: Plain data that goes into every checkpoint (configuration, preprocessing).
        training_net: Faster equivalent of `net` for training; None: `net`.

    Raises:
        UserError: The training loss is not finite (raised from `fit`).
    """

    def __init__(
        self,
        net: Classifier,
        classes: tuple[str, ...],
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        loss: Loss | None = None,
        class_weights: Tensor | None = None,
        channels_last: bool = True,
        about: Mapping[str, Any] | None = None,
        training_net: Net | None = None,
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.net = net.to(memory_format=self.memory_format)
        self.classes = classes
        self.build_optimizer = optimizer
        self.loss = loss or CrossEntropy()
        self.about = dict(about or {})
        self.training_net = training_net
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)
        # Values are not searched for NaN, which would wait for the GPU in every step
        self.train_loss: Metric = MeanMetric(nan_strategy="disable")
        self.train_acc: Metric = MulticlassAccuracy(len(classes), average="micro", validate_args=False)
        self.val_loss: Metric = MeanMetric(nan_strategy="disable")
        self.test_loss: Metric = MeanMetric(nan_strategy="disable")
        self.val_metrics = _metrics(len(classes), "val/")
        self.test_metrics = _metrics(len(classes), "test/")

    @property
    def backbone(self) -> torch.nn.Module:
        """The stages, under the name that Lightning's finetuning callbacks expect."""
        return self.net.backbone

    @property
    def metric_names(self) -> list[str]:
        """Names that `checkpoint.monitor` may have: one number per epoch over all classes."""
        measured = [f"{self.val_metrics.prefix}{name}" for name in self.val_metrics.keys(keep_base=True)]
        return ["train/loss", "train/acc", "val/loss", *(name for name in measured if "acc_class" not in name)]

    def on_train_epoch_start(self) -> None:
        """Reset the epoch's sums (a run resumed inside an epoch has the checkpoint's)."""
        self.train_loss.reset()
        self.train_acc.reset()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `B K` (float32) of images `B C H W` (uint8, or float in 0..1)."""
        return self.net(self.to_memory_format(x)).float()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the training loss of a `Batch`, whose labels are `B` or, where images were mixed, `B K`."""
        loss, logits = self.loss_of(self.net if self.training_net is None else self.training_net, batch)
        if loss.device.type == "cpu" or self.global_step % CHECK_LOSS_EVERY == 0:
            self._check_finite(loss, "train/loss")
        hard = batch.label if batch.label.ndim == 1 else batch.label.argmax(dim=1)
        self.train_acc.update(logits.detach(), hard)
        size = len(batch.image)
        self.train_loss.update(loss.detach().expand(size))  # torchmetrics 1.9 forgets weights where it skips NaN
        if self.trainer.is_last_batch:  # metrics are read at the epoch's end, and each call costs a millisecond
            self.log_training(size)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the epoch's sums where a callback has ended it before its last batch."""
        if self.trainer.should_stop and not self.trainer.is_last_batch:
            self.log_training(len(batch.image))

    def log_training(self, size: int) -> None:
        """Log the epoch's loss and accuracy so far, after a batch of `size` images."""
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, batch_size=size, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, batch_size=size)

    def loss_of(self, net: Net, batch: Any, loss: Loss | None = None) -> tuple[Tensor, Tensor]:
        """Return the training loss (scalar) and the logits (`B K`, float32) of `net` and `loss`, ours or copies."""
        try:
            logits = net(self.to_memory_format(batch.image), batch.after).float()
        except ValueError as error:  # BatchNorm over a single value
            raise UserError(f"data.batch_size={len(batch.image)} is too small to train here ({error})") from error
        values = (loss or self.loss)(logits, batch.label)
        if self.class_weights is None:
            return (values.mean() if values.ndim else values), logits
        hard = batch.label.ndim == 1
        weights = self.class_weights[batch.label] if hard else batch.label @ self.class_weights
        return (weights * values).sum() / weights.sum(), logits

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Return `loss` (scalar), `logits` (`B K`) and `losses` (`B`) for the dashboards."""
        return self._evaluate(batch, self.val_loss, self.val_metrics)

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Return the same as `validation_step`."""
        return self._evaluate(batch, self.test_loss, self.test_metrics)

    def on_validation_epoch_end(self) -> None:
        """Log accuracy, macro F1 and the accuracy of each class that has images, over the whole split."""
        self.log("val/loss", self.val_loss, prog_bar=True)
        self._log_metrics(self.val_metrics, "val")

    def on_test_epoch_end(self) -> None:
        """Log the same as `on_validation_epoch_end`."""
        split = tested_split(self.trainer)
        self.log(f"{split}/loss", self.test_loss)
        self._log_metrics(self.test_metrics, split)

    def configure_optimizers(self) -> Optimizer:
        """Return the optimizer over every stage, the head and the loss, in groups that never change."""
        return self.optimizer_for(self.net, self.loss)

    def optimizer_for(self, net: Classifier, loss: Loss) -> Optimizer:
        """Return a fresh optimizer over `net` and `loss`, ours or copies: one pair of groups per stage and head.

        Norms, biases and other one-dimensional parameters get no weight decay (He et al. 2019, section 3.1). What
        the loss has to train joins the head, without weight decay.
        """
        groups: list[dict[str, Any]] = []
        for name, split in net.parameter_groups().items():
            groups += optimizer_groups(name, split)
        if isinstance(loss, torch.nn.Module) and (own := list(loss.parameters())):
            groups.append({"params": own, "group": "head", "decays": False, "weight_decay": 0.0})
        try:
            return self.build_optimizer(groups)
        except (TypeError, ValueError) as error:
            raise UserError(f"optimizer cannot be built ({error}); correct its keys") from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what prediction needs (class names, preprocessing, configuration), and the epoch's sums so far."""
        checkpoint.setdefault("tlab", {}).update(classes=list(self.classes), **self.about)
        checkpoint["train_metrics"] = {name: _sums(metric) for name, metric in self._train_metrics()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the epoch's sums, so that the training loss of an interrupted epoch covers all of it."""
        if self.global_rank > 0:  # the sums are those of all processes
            return
        for name, metric in self._train_metrics():
            for state, value in checkpoint["train_metrics"][name].items():
                setattr(metric, state, value.to(self.device) if isinstance(value, Tensor) else value)

    def to_memory_format(self, x: Tensor) -> Tensor:
        """Return maps `B C H W` in the run's memory format, anything else as it is."""
        return x.contiguous(memory_format=self.memory_format) if x.ndim == 4 else x

    def _train_metrics(self) -> list[tuple[str, Metric]]:
        return [("loss", self.train_loss), ("acc", self.train_acc)]

    def _evaluate(self, batch: Any, mean: Metric, metrics: MetricCollection) -> dict[str, Tensor]:
        logits = self.net(self.to_memory_format(batch.image), batch.after).float()
        losses = each(self.loss, logits, batch.label)
        loss = losses.mean()
        self._check_finite(loss, f"{metrics.prefix}loss")
        metrics.update(logits, batch.label)
        mean.update(losses.detach())
        return {"loss": loss, "logits": logits.detach(), "losses": losses.detach()}

    def _log_metrics(self, metrics: MetricCollection, split: str) -> None:
        prefix = f"{split}/"
        values = {f"{prefix}{name.partition('/')[2]}": value for name, value in metrics.compute().items()}
        counted: Any = metrics[f"{metrics.prefix}acc_class"]
        images = self.trainer.strategy.reduce(counted.tp + counted.fn, reduce_op="sum")  # of each class
        per_class = zip(self.classes, values.pop(f"{prefix}acc_class"), images.tolist(), strict=True)
        if len(self.classes) <= PER_CLASS_UP_TO:
            values |= {f"{prefix}acc_class/{name}": value for name, value, number in per_class if number}
        self.log(f"{prefix}acc", values.pop(f"{prefix}acc"), prog_bar=True)
        self.log_dict(values)
        metrics.reset()

    def _check_finite(self, loss: Tensor, name: str) -> None:
        if not torch.isfinite(loss):
            raise NotFinite(
                f"{name} became {loss.item()} in epoch {self.current_epoch} at step {self.global_step}; "
                f"lower optimizer.lr, set trainer.gradient_clip_val=1.0 or use trainer.precision=32-true"
            )


def optimizer_groups(name: str, split: Mapping[str, list[torch.nn.Parameter]]) -> list[dict[str, Any]]:
    """Return a group's parameters, split by whether they decay, as the optimizer's parameter groups."""
    decays = {"params": split["decay"], "group": name, "decays": True}
    others = {"params": split["no_decay"], "group": name, "decays": False, "weight_decay": 0.0}
    return [group for group in (decays, others) if group["params"]]


def tested_split(trainer: L.Trainer) -> str:
    """Return the name of what a test measures: "test", or "test/NAME" where the data module has further ones."""
    return getattr(trainer.datamodule, "test_split", "test")  # type: ignore[attr-defined]


def network(module: L.LightningModule) -> Classifier:
    """Return the network of an `ImageClassifier`."""
    net = module.net
    assert isinstance(net, Classifier), "tlab's callbacks drive a LightningModule whose `net` is a Classifier"
    return net


def _sums(metric: Metric) -> dict[str, Any]:
    """Return the state of a metric, summed over the processes."""
    with metric.sync_context():
        state: dict[str, Any] = metric.metric_state
        return {name: value.clone() for name, value in state.items()} | {"_update_count": metric._update_count}


def _metrics(num_classes: int, prefix: str) -> MetricCollection:
    metrics: dict[str, Metric | MetricCollection] = {
        "acc": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
        "f1": MulticlassF1Score(num_classes, average="macro", validate_args=False),
        "acc_class": MulticlassAccuracy(num_classes, average=None, validate_args=False),
    }
    if num_classes >= TOP5_FROM:
        metrics["acc_top5"] = MulticlassAccuracy(num_classes, average="micro", top_k=5, validate_args=False)
    return MetricCollection(metrics, prefix=prefix)
