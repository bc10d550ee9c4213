"""Freezing: any set of a network's groups trains, and the others change by no bit, BatchNorm included."""

from collections.abc import Collection, Sequence
from typing import Self

from torch import nn


class FreezableGroups(nn.Module):
    """A network made of named groups, each of which trains or is frozen.

    A frozen group takes no gradient and stays in evaluation mode whatever `train()` is called later, so neither its
    parameters nor its buffers change; BatchNorm in it normalizes by the statistics that it has.

    Args:
        group_names: Names of the groups, in forward order.

    Attributes:
        trainable: Names of the groups that train; all, until `set_trainable` is called.
    """

    def __init__(self, group_names: Sequence[str]) -> None:
        super().__init__()
        self.group_names = tuple(group_names)
        self.trainable = frozenset(group_names)

    def group(self, name: str) -> nn.Module:
        """Return the group called `name`; raises a `UserError` if there is none."""
        raise NotImplementedError

    def set_trainable(self, groups: Collection[str]) -> None:
        """Let `groups` train and freeze all others; a parameter shared by a frozen and a trainable one is frozen.

        Raises:
            UserError: A name is no group of this network.
        """
        modules = {name: self.group(name) for name in (*groups, *self.group_names)}
        self.trainable = frozenset(groups)
        for name in sorted(self.group_names, key=lambda name: name not in self.trainable):
            for parameter in modules[name].parameters():
                parameter.requires_grad = name in self.trainable
                if name not in self.trainable:
                    parameter.grad = None
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the trainable groups; frozen ones are always in evaluation mode."""
        super().train(mode)
        for name in self.group_names:
            if name not in self.trainable:
                self.group(name).eval()
        return self
