"""A network of two inputs: the datum and a context."""

from __future__ import annotations

from torch import Tensor, nn

from pyro_vae.networks.base import (
    Activation,
    NetworkFactory,
    Shape,
    activation_layer,
    build_network,
    glorot,
    layer_sizes,
)
from pyro_vae.networks.mlp import MLP


class ContextNetwork(nn.Module):
    r"""A network of x and a context c that meet in one layer, :math:`\mathrm{out}(f(\mathrm{net}(x) + W c))`.

    The layer is that of the concatenation, :math:`W' [\mathrm{net}'(x); c]`, in two parts: what depends on x alone is
    computed once where c has more leading dimensions (particles, enumerated classes).

    Args:
        in_shape: shape of one datum x.
        out_shape: shape of one output.
        context_dim: number of dimensions of c.
        net: builds the network of x, ``net(in_shape, (hidden[0],))``.
        hidden: widths of the layers from the common one on.
        activation: the nonlinearity after each of them.

    Shape:
        x ``(*batch, *in_shape)`` and c ``(*batch', context_dim)``, whose leading dimensions broadcast to ``both``, to
        ``(*both, *out_shape)``.

    Raises:
        ValueError: the context has another size.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import ContextNetwork
        >>> net = ContextNetwork((1, 28, 28), (2, 5), context_dim=10)
        >>> net(torch.zeros(7, 1, 28, 28), torch.zeros(3, 7, 10)).shape
        torch.Size([3, 7, 2, 5])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        context_dim: int,
        net: NetworkFactory = MLP,
        hidden: Shape = (200,),
        activation: Activation = "tanh",
    ) -> None:
        super().__init__()
        hidden = layer_sizes("ContextNetwork", "hidden", hidden)
        if context_dim < 1 or not hidden:
            raise ValueError(
                "ContextNetwork: context_dim must be positive and hidden hold a width, got "
                f"context_dim={context_dim}, hidden={hidden}. Use the context's size and for example hidden=(200,)."
            )
        self.in_shape, self.out_shape, self.context_dim = tuple(in_shape), tuple(out_shape), context_dim
        self.net = build_network(net, self.in_shape, hidden[:1])
        self.context = glorot(nn.Linear(context_dim, hidden[0], bias=False))
        self.activation = activation_layer(activation)
        self.out = MLP(hidden[:1], self.out_shape, hidden=hidden[1:], activation=activation)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        if context.shape[-1] != self.context_dim:
            raise ValueError(
                f"ContextNetwork: the context must have context_dim={self.context_dim} dimensions, got "
                f"shape={tuple(context.shape)}. Build the network for that context."
            )
        return self.out(self.activation(self.net(x) + self.context(context)))
