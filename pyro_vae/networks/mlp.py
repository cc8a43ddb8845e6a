"""Fully connected networks."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from pyro_vae.networks.base import Activation, Network, Shape, activation_layer, dropout_rate, glorot


class MLP(Network):
    r"""Multilayer perceptron, :math:`h_{i+1} = f(W_i h_i + b_i)`, linear at the end.

    Args:
        in_shape: shape of one input; it is flattened.
        out_shape: shape of one output.
        hidden: widths of the hidden layers; empty for a linear map.
        activation: the nonlinearity after each hidden layer.
        dropout: probability of dropping a hidden unit while training.

    Shape:
        ``(*batch, *in_shape) -> (*batch, *out_shape)``

    Example:
        >>> import torch
        >>> from pyro_vae.networks import MLP
        >>> MLP((1, 28, 28), (2, 50), hidden=(200, 200))(torch.zeros(3, 5, 1, 28, 28)).shape
        torch.Size([3, 5, 2, 50])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        hidden: Shape = (200, 200),
        activation: Activation = "tanh",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_shape, out_shape)
        sizes = (self.in_size, *hidden)
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [glorot(nn.Linear(before, after)), activation_layer(activation)]
            layers += [nn.Dropout(dropout)] if dropout_rate("MLP", dropout) else []
        self.layers = nn.Sequential(*layers, glorot(nn.Linear(sizes[-1], self.out_size)))

    def transform(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1))


class GatedLinear(nn.Module):
    r"""Gated layer, :math:`(A x + a) \odot \sigma(B x + b)`, with A and B in one matrix.

    References:
        Language modeling with gated convolutional networks (Dauphin et al., 2017), eq. 1.
        https://arxiv.org/abs/1612.08083
    """

    def __init__(self, in_size: int, out_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_size, 2 * out_size)
        nn.init.zeros_(self.linear.bias)
        for half in self.linear.weight.chunk(2):
            nn.init.xavier_uniform_(half.detach())

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.glu(self.linear(x), dim=-1)


class GatedMLP(Network):
    """Multilayer perceptron of gated layers, linear at the end, as in the VampPrior paper.

    Args:
        in_shape: shape of one input; it is flattened.
        out_shape: shape of one output.
        hidden: widths of the gated layers.
        dropout: probability of dropping a hidden unit while training.

    Shape:
        ``(*batch, *in_shape) -> (*batch, *out_shape)``

    References:
        VAE with a VampPrior (Tomczak and Welling, 2018), section 4. https://arxiv.org/abs/1705.07120

    Example:
        >>> import torch
        >>> from pyro_vae.networks import GatedMLP
        >>> GatedMLP((40,), (1, 28, 28))(torch.zeros(7, 40)).shape
        torch.Size([7, 1, 28, 28])
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, *, hidden: Shape = (300, 300), dropout: float = 0.0) -> None:
        super().__init__(in_shape, out_shape)
        sizes = (self.in_size, *hidden)
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [GatedLinear(before, after)]
            layers += [nn.Dropout(dropout)] if dropout_rate("GatedMLP", dropout) else []
        self.layers = nn.Sequential(*layers, glorot(nn.Linear(sizes[-1], self.out_size)))

    def transform(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1))
