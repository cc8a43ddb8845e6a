"""Any network as one of two inputs: what a model with labels makes of the networks that a user chooses."""

from __future__ import annotations

import inspect
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.networks.base import NetworkFactory, Shape, build_network
from pyro_vae.networks.context import ContextNetwork
from pyro_vae.networks.mlp import MLP, GatedMLP


class ConcatenatedNetwork(nn.Module):
    r"""A network of a datum and a context beside each other, :math:`\mathrm{net}([x; c])`.

    Args:
        in_shape: shape of x, which is flattened to D entries.
        out_shape: shape of one output.
        context_dim: number of dimensions of c.
        net: builds the network, ``net((D + context_dim,), out_shape)``.

    Shape:
        x ``(*batch, *in_shape)`` and c ``(*batch', context_dim)``, whose leading dimensions broadcast to ``all``, to
        ``(*all, *out_shape)``.

    Example:
        >>> import torch
        >>> net = ConcatenatedNetwork((2,), (1, 8, 8), context_dim=3, net=MLP)
        >>> net(torch.zeros(5, 1, 7, 2), torch.zeros(7, 3)).shape
        torch.Size([5, 1, 7, 1, 8, 8])
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, *, context_dim: int, net: NetworkFactory) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        self.net = build_network(net, (math.prod(in_shape) + context_dim,), self.out_shape)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        flat = x.flatten(-len(self.in_shape))
        leading = torch.broadcast_shapes(flat.shape[:-1], context.shape[:-1])
        return self.net(torch.cat([flat.expand(*leading, -1), context.expand(*leading, -1)], -1))


def with_context(net: NetworkFactory, context_dim: int) -> Any:
    r"""The network that is meant where one of x was chosen and one of x and a context is needed.

    - An :class:`~pyro_vae.networks.MLP` with hidden layers is that of both inputs beside each other, its first layer in
      two parts, :math:`W [x; c] = W_x x + W_c c`, so that the part of x is computed once for all classes.
    - Another fully connected network, and any network of a vector, such as a decoder's, has both beside each other.
    - Any other network of an image ends in a common layer of 200 units, to which the context is added, and which a
      linear layer follows: :class:`~pyro_vae.networks.ContextNetwork` around it.

    Args:
        net: a factory, ``net(in_shape, out_shape)``: a class, or a ``partial`` of one.
        context_dim: number of dimensions of the context.

    Returns:
        A factory of networks that are called as ``net(x, c)``.

    Example:
        >>> from pyro_vae.networks import ConvDecoder, ConvEncoder
        >>> chosen = partial(MLP, hidden=(50,)), ConvEncoder, ConvDecoder
        >>> shapes = ((1, 8, 8), (4,)), ((1, 8, 8), (4,)), ((2,), (1, 8, 8))
        >>> [type(with_context(n, 3)(*s)).__name__ for n, s in zip(chosen, shapes)]
        ['ContextNetwork', 'ContextNetwork', 'ConcatenatedNetwork']
    """
    return partial(_build, net, context_dim)


def factory_options(factory: Any) -> tuple[Any, dict[str, Any]]:
    """The class that a factory builds and its keyword arguments, defaults included.

    Args:
        factory: a class, or partials of one, or of a function that is given the class, as the command line makes them.

    Returns:
        The class, None where there is none to be seen, and the arguments.
    """
    given: dict[str, Any] = {}
    found = factory
    while isinstance(found, partial):
        given = {**found.keywords, **given}
        inner = next((a for a in found.args if inspect.isclass(a)), None)
        found = inner if inner is not None else found.func
    if not inspect.isclass(found):
        return None, given
    parameters = inspect.signature(found).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
    return found, {**defaults, **given}


def _build(net: NetworkFactory, context_dim: int, in_shape: Shape, out_shape: Shape) -> nn.Module:
    kind, options = factory_options(net)
    if kind is MLP and options["hidden"] and not options["dropout"]:
        both, first = {"hidden": options["hidden"], "activation": options["activation"]}, partial(MLP, hidden=())
        return ContextNetwork(in_shape, out_shape, context_dim=context_dim, net=first, **both)
    if len(in_shape) == 1 or kind in (MLP, GatedMLP):
        return ConcatenatedNetwork(in_shape, out_shape, context_dim=context_dim, net=net)
    return ContextNetwork(in_shape, out_shape, context_dim=context_dim, net=net)
