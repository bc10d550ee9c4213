"""Heads of one form as one module, which multiplies all their weights at once."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from tlab.models.head import Head


class HeadBatch:
    """K heads of one form: each of their parameters is a row of one tensor, in whose memory the heads keep it.

    So an optimizer of all heads' own parameters updates the rows, and each head's `state_dict` is up to date.

    Args:
        heads: The heads, alike but for dropout; their parameters move.
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        self.heads = list(heads)
        self.layers = []
        for each in zip(*(_linear_layers(head) for head in heads), strict=True):
            self.layers.append(
                (_as_rows([layer.weight for layer in each]), _as_rows([layer.bias for layer in each]))
            )

    def __call__(self, inputs: Sequence[Tensor], noise: Sequence[Sequence[Tensor] | None]) -> Tensor:
        """Return logits `K B C` in training mode.

        Args:
            inputs: Pooled features `B D` of each head's batch; heads with the same batch share a tensor.
            noise: What dropout multiplies the input of each linear layer with, for each head (see `draw_noise`);
                None: nothing. Heads that draw the same share it.
        """
        first: dict[tuple[int, int, int], Tensor] = {}
        for head, x, factors in zip(self.heads, inputs, noise, strict=True):
            key = _first(head, x, factors)
            if key not in first:
                y = head.norm(x)
                first[key] = y if factors is None else y * factors[0]
        x = _together([first[_first(*each)] for each in zip(self.heads, inputs, noise, strict=True)])
        for number, (weight, bias) in enumerate(self.layers):
            if number:
                x = relu(x)
                if any(factors is not None for factors in noise):
                    ones = torch.ones_like(x[0])
                    x = x * _together([ones if factors is None else factors[number] for factors in noise])
            x = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))  # rounds as a linear layer does
        return x

    def gradient_norms(self) -> Tensor:
        """Return the 2-norm of each head's gradient: `K`."""
        gradients = [tensor.grad for layer in self.layers for tensor in layer]
        norms = [torch.linalg.vector_norm(each.flatten(1), dim=1) for each in gradients if each is not None]
        return torch.linalg.vector_norm(torch.stack(norms), dim=0)

    def zero_grad(self) -> None:
        """Set all gradients to zero, where they are."""
        for layer in self.layers:
            for tensor in layer:
                assert tensor.grad is not None
                tensor.grad.zero_()


def draw_noise(head: Head, x: Tensor, seed: int) -> list[Tensor] | None:
    """Return what the head's dropout would multiply its linear layers' inputs with, torch's generator at `seed`.

    Args:
        head: The head.
        x: Its input `B D`.
        seed: Seed of all that is drawn.
    """
    if not head.dropout.p:
        return None
    generator = torch.Generator().manual_seed(seed)
    keeps = 1 - head.dropout.p
    shapes = [(len(x), layer.in_features) for layer in _linear_layers(head)]
    return [torch.empty(s, dtype=x.dtype).bernoulli_(keeps, generator=generator).div_(keeps) for s in shapes]


def _linear_layers(head: Head) -> list[nn.Linear]:
    return [*(layer for layer in head.hidden if isinstance(layer, nn.Linear)), head.linear]


def _as_rows(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return one tensor `K ...` of the parameters, which move into its memory, as do their gradients."""
    rows = torch.stack([parameter.detach() for parameter in parameters]).requires_grad_()
    rows.grad = torch.zeros_like(rows)
    for number, parameter in enumerate(parameters):
        parameter.data = rows.detach()[number]
        parameter.grad = rows.grad[number]
    return rows


def _first(head: Head, x: Tensor, factors: Sequence[Tensor] | None) -> tuple[int, int, int]:
    """Return what tells apart the inputs of the first layer; a head that standardizes has statistics of its own."""
    own = 0 if isinstance(head.norm, nn.Identity) else id(head)
    return own, id(x), 0 if factors is None else id(factors[0])


def _together(tensors: Sequence[Tensor]) -> Tensor:
    """Return the tensors as one with K rows, without a copy where all are the same."""
    if all(tensor is tensors[0] for tensor in tensors):
        return tensors[0].expand(len(tensors), *tensors[0].shape)
    return torch.stack(list(tensors))
