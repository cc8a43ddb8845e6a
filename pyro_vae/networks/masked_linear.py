"""Linear layers with the masks of autoregressive networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyro_vae.networks.base import glorot


class MaskedLinear(nn.Linear):
    """A linear layer with a fixed mask on its weights.

    Args:
        mask: ``(out, in)``, true for the weights that are used.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.to(self.weight), persistent=False)
        glorot(self)

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight * self.mask, self.bias)


def spread_degrees(size: int, num_degrees: int) -> Tensor:
    """Degrees 0, ..., ``num_degrees - 1`` of ``size`` units, evenly spread and in increasing order.

    The degree of a unit is the number of first components of the input that it may depend on; 0 is the context only.
    """
    return torch.arange(size) * num_degrees // size


def masked_layers(inputs: Tensor, degrees: Sequence[Tensor]) -> list[MaskedLinear]:
    """Build layers whose units are connected to the units before with degrees that do not exceed their own.

    Args:
        inputs: degrees of the input; the j-th component, counted from 1, has degree j.
        degrees: degrees of the units of each layer.

    References:
        MADE: masked autoencoder for distribution estimation (Germain et al., 2015), section 4.
        https://arxiv.org/abs/1502.03509

    Example:
        >>> (layer,) = masked_layers(torch.arange(1, 4), [torch.arange(3)])
        >>> layer.mask.long()
        tensor([[0, 0, 0],
                [1, 0, 0],
                [1, 1, 0]])
    """
    return [MaskedLinear(after.unsqueeze(1) >= before) for before, after in pairwise([inputs, *degrees])]
