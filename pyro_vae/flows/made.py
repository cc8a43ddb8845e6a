"""The masked network of autoregressive flows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_vae.networks.base import Activation, Shape, activation_layer, glorot
from pyro_vae.networks.masked_linear import masked_layers, spread_degrees


class MADE(nn.Module):
    r"""Masked autoencoder whose i-th outputs depend on :math:`z_1, \dots, z_{i - 1}` and a context.

    Not a :class:`~pyro_vae.networks.Network`, since it has two inputs and no output depends on the last component.

    Args:
        dim: L, number of inputs.
        num_outputs: number of outputs per component.
        hidden: widths of the hidden layers; layers of at least L units use every component.
        context_dim: size of the context, added in the first layer; 0 for no context.
        activation: the nonlinearity after each hidden layer.
        gain: factor on the last layer's initial weights; small for a flow that starts near the identity.

    Shape:
        z ``(*sample, *batch, dim)``, context ``(*batch, context_dim)`` to ``(*sample, *batch, num_outputs, dim)``.

    References:
        MADE: masked autoencoder for distribution estimation (Germain et al., 2015), section 4.
        https://arxiv.org/abs/1502.03509

    Example:
        >>> import torch
        >>> MADE(3, 2, hidden=(8,), context_dim=4)(torch.zeros(7, 5, 3), torch.zeros(5, 4)).shape
        torch.Size([7, 5, 2, 3])
    """

    def __init__(
        self,
        dim: int,
        num_outputs: int,
        *,
        hidden: Shape = (200, 200),
        context_dim: int = 0,
        activation: Activation = "elu",
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.dim, self.num_outputs = dim, num_outputs
        degrees = [spread_degrees(size, dim) for size in hidden]
        layers = masked_layers(torch.arange(1, dim + 1), [*degrees, torch.arange(dim).repeat(num_outputs)])
        nn.init.xavier_uniform_(layers[-1].weight, gain)
        self.context = glorot(nn.Linear(context_dim, layers[0].out_features, bias=False)) if context_dim else None
        self.first, rest = layers[0], layers[1:]
        self.rest = nn.Sequential(*(module for layer in rest for module in (activation_layer(activation), layer)))

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.first(z)
        if self.context is not None:
            h = h + self.context(context)
        return self.rest(h).unflatten(-1, (self.num_outputs, self.dim))
