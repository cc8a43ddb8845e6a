"""Networks of a datum and one or more contexts."""

from __future__ import annotations

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from pyro_vae._core.checks import CheckedArguments, refusal, require
from pyro_vae.networks.base import (
    Activation,
    NetworkFactory,
    Shape,
    activation_layer,
    build_network,
    glorot,
)
from pyro_vae.networks.mlp import MLP


class ContextNetwork(nn.Module, CheckedArguments):
    r"""A network of x and contexts with a common layer, :math:`\mathrm{out}(f(\mathrm{net}(x) + \sum_i W_i c_i))`.

    The common layer is that of the concatenation, :math:`W [\mathrm{net}'(x); c_1; c_2]`, in parts: the part that
    depends on x alone is computed once if a context has more leading dimensions (particles, enumerated classes).

    Args:
        in_shape: shape of one datum x.
        out_shape: shape of one output.
        context_dim: number of dimensions of the context c, or of each of several.
        net: builds the network of x, ``net(in_shape, (hidden[0],))``.
        hidden: widths of the common layer and of those after it.
        activation: the nonlinearity after each of them.

    Shape:
        x ``(*batch, *in_shape)`` and contexts ``(*batch', context_dim)``, or classes ``batch'`` of an integer dtype,
        whose leading dimensions broadcast to ``all``, to ``(*all, *out_shape)``.

    Raises:
        ValueError: a size is not positive; at a call: the contexts differ in number or size.

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
        context_dim: int | Shape,
        net: NetworkFactory = MLP,
        hidden: Shape = (200,),
        activation: Activation = "tanh",
    ) -> None:
        super().__init__()
        hidden = tuple(hidden)
        dims = (context_dim,) if isinstance(context_dim, int) else tuple(context_dim)
        if not dims or min(dims) < 1 or not hidden:
            rule, what = (
                "context_dim must be positive and hidden not empty",
                f"context_dim={context_dim}, hidden={hidden}",
            )
            raise refusal("ContextNetwork", rule, what, "Use the size of the context and for example hidden=(200,)")
        self.in_shape, self.out_shape, self.context_dims = tuple(in_shape), tuple(out_shape), dims
        self.net = build_network(net, self.in_shape, hidden[:1])
        self.context = nn.ModuleList(glorot(nn.Linear(dim, hidden[0], bias=False)) for dim in dims)
        self.activation = activation_layer(activation)
        self.out = MLP(hidden[:1], self.out_shape, hidden=hidden[1:], activation=activation)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        if len(context) == len(self.context_dims):
            context = tuple(as_vector(c, dim, x.dtype) for c, dim in zip(context, self.context_dims, strict=True))
        if tuple(c.shape[-1] for c in context) != self.context_dims:
            rule, what = f"the contexts must have {self.context_dims} dimensions", [tuple(c.shape) for c in context]
            advice = "Build the network with their context_dim" if context else "Pass the data as (x, c)"
            raise refusal("ContextNetwork", rule, f"shapes={what}", advice)
        common = self.net(x)
        for layer, c in zip(self.context, context, strict=True):
            common = common + layer(c)
        return self.out(self.activation(common))


def as_vector(context: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """One-hot vectors ``(*batch, dim)`` of classes ``batch``, of an integer dtype; floating contexts as they are.

    Raises:
        ValueError: a class is not in 0..dim - 1, if Pyro validates; its vector is NaN otherwise.
    """
    if context.is_floating_point():
        return context
    context = context.long()
    if is_validation_enabled() and context.numel():
        low, high = (int(bound) for bound in torch.aminmax(context))
        advice = f"Number the classes from 0, or build the networks for {max(high + 1, 1)} classes"
        require(0 <= low <= high < dim, "context", f"classes must be in 0..{dim - 1}", f"{low}..{high}", advice)
    one_hot = (context.unsqueeze(-1) == torch.arange(dim, device=context.device)).to(dtype)
    return torch.where(one_hot.sum(-1, keepdim=True) > 0, one_hot, torch.nan)
