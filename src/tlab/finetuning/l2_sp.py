"""Decay of the backbone towards its pretrained weights instead of towards zero."""

from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from tlab.core.errors import UserError
from tlab.finetuning.plan import HEAD
from tlab.models.module import network
from tlab.models.stages import digest


class L2SP(L.Callback):
    """L2-SP, the penalty alpha / 2 * |w - w0|^2 (Li, Grandvalet & Davoine 2018, equation 2).

    Before each optimizer step, alpha * (w - w0) is added to the gradient of every backbone parameter that trains;
    w0 are the weights that the run begins with. The penalty takes the place of weight decay there; the head keeps
    its own (the paper's beta). Frozen stages, and parameters that got no gradient, stay where they are.

    Lightning calls the hook once per optimizer step, after gradients were accumulated and, in 16-mixed, unscaled,
    and before they are clipped: the penalty is part of the loss, also for an adaptive optimizer (AdamW), which
    divides it by the gradient's scale.

    Args:
        alpha: Strength of the penalty; the paper searched 0.001 to 1 for SGD.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self.start: dict[str, Tensor] = {}
        self.digest = ""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Keep a copy of the weights; Lightning loads a checkpoint after this, so it is exact on resume."""
        if stage == "fit":
            backbone = network(pl_module).backbone
            self.start = {name: parameter.detach().clone() for name, parameter in backbone.named_parameters()}
            self.digest = digest(backbone)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the copy to the device of the weights, and turn weight decay of the stages off in each step."""
        self.start = {name: value.to(pl_module.device) for name, value in self.start.items()}
        trainer.optimizers[0].register_step_pre_hook(_no_decay)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Add the penalty's gradient."""
        with torch.no_grad():
            for name, parameter in network(pl_module).backbone.named_parameters():
                if parameter.requires_grad and parameter.grad is not None:
                    parameter.grad.add_(parameter - self.start[name], alpha=self.alpha)

    def state_dict(self) -> dict[str, Any]:
        """Return the digest of the weights that the run began with; the weights are read again."""
        return {"digest": self.digest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume with other pretrained weights.

        Raises:
            UserError: The pretrained weights are not those that the run began with.
        """
        if state_dict["digest"] != self.digest:
            raise UserError(
                "backbone.weights are not those that this run began with, and finetune.l2_sp decays towards them; "
                "give the same weights again, or another hydra.run.dir"
            )


def _no_decay(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        if group["group"] != HEAD:
            group["weight_decay"] = 0.0
