"""Networks that several programs share, of a few units."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

HIDDEN = 8


def binary(*shape: int) -> Tensor:
    """Fair coins as floats."""
    return torch.bernoulli(torch.full(shape, 0.5))


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with softplus between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.Softplus()]
    return nn.Sequential(*layers[:-1])


def join(tensors: Tensor | Sequence[Tensor]) -> Tensor:
    """Broadcast to a common shape except for the last dimension, and concatenate along it."""
    if isinstance(tensors, Tensor):
        return tensors
    shape = torch.broadcast_shapes(*(t.shape[:-1] for t in tensors))
    return torch.cat([t.expand(*shape, t.shape[-1]) for t in tensors], dim=-1)


class NormalNet(nn.Module):
    """Location and scale of a diagonal normal distribution; several inputs come as a list."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = mlp(inputs, HIDDEN, 2 * outputs)

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        loc, scale = self.body(join(inputs)).chunk(2, dim=-1)
        return loc, softplus(scale) + 1e-3
