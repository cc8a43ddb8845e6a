"""Add a context input to any network: models with labels do so with the networks that a user chooses."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._core.checks import check_arguments, require
from pyro_vae.networks.base import NetworkFactory, Shape, build_network
from pyro_vae.networks.context import ContextNetwork, as_vector
from pyro_vae.networks.mlp import MLP, GatedMLP


class ConcatenatedNetwork(nn.Module):
    r"""A network of the concatenated datum and context, :math:`\mathrm{net}([x; c])`.

    Args:
        in_shape: shape of x, which is flattened to D entries.
        out_shape: shape of one output.
        context_dim: number of dimensions of c.
        net: builds the network, ``net((D + context_dim,), out_shape)``.

    Shape:
        x ``(*batch, *in_shape)`` and c ``(*batch', context_dim)``, or classes ``batch'`` of an integer dtype, whose
        leading dimensions broadcast to ``all``, to ``(*all, *out_shape)``.

    Example:
        >>> import torch
        >>> net = ConcatenatedNetwork((2,), (1, 8, 8), context_dim=3, net=MLP)
        >>> net(torch.zeros(5, 1, 7, 2), torch.zeros(7, 3)).shape
        torch.Size([5, 1, 7, 1, 8, 8])
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, *, context_dim: int, net: NetworkFactory) -> None:
        super().__init__()
        self.in_shape, self.out_shape, self.context_dim = tuple(in_shape), tuple(out_shape), context_dim
        self.net = build_network(net, (math.prod(in_shape) + context_dim,), self.out_shape)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        context = as_vector(context, self.context_dim, x.dtype)
        flat = x.flatten(-len(self.in_shape))
        leading = torch.broadcast_shapes(flat.shape[:-1], context.shape[:-1])
        return self.net(torch.cat([flat.expand(*leading, -1), context.expand(*leading, -1)], -1))


class ImageContextNetwork(nn.Module):
    r"""A network of x and an array c, which enters as a vector or, for a network of images of its size, as channels.

    Args:
        in_shape: shape of x.
        out_shape: shape of one output.
        context_shape: shape of c.
        net: builds the network of x and a vector, see :func:`with_context`; or that of the stacked channels,
            ``net((C + C', H, W), out_shape)``.

    Shape:
        x ``(*batch, *in_shape)`` and c ``(*batch', *context_shape)``, whose leading dimensions broadcast to ``all``, to
        ``(*all, *out_shape)``.

    Example:
        >>> import torch
        >>> net = ImageContextNetwork((2,), (1, 8, 8), context_shape=(3, 8, 8), net=MLP)
        >>> net(torch.zeros(5, 1, 2), torch.zeros(7, 3, 8, 8)).shape
        torch.Size([5, 7, 1, 8, 8])
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, *, context_shape: Shape, net: NetworkFactory) -> None:
        super().__init__()
        self.in_shape, self.out_shape, self.context_shape = tuple(in_shape), tuple(out_shape), tuple(context_shape)
        kind, _ = factory_options(net)
        self.stacked = "in_shape" in getattr(kind, "images", ()) and in_shape[1:] == self.context_shape[1:]
        shape = (in_shape[0] + context_shape[0], *in_shape[1:])
        factory = (
            partial(net, shape)
            if self.stacked
            else partial(build_with_context, net, math.prod(context_shape), in_shape)
        )
        self.net = factory(self.out_shape)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        dims = len(self.context_shape)
        rule, got = f"the context must end in {self.context_shape}", f"shape={tuple(context.shape)}"
        require(tuple(context.shape[-dims:]) == self.context_shape, "ImageContextNetwork", rule, got)
        if not self.stacked:
            return self.net(x, context.flatten(-dims))
        leading = torch.broadcast_shapes(x.shape[:-3], context.shape[:-3])
        return self.net(torch.cat([t.expand(*leading, *t.shape[-3:]) for t in (x, context)], -3))


def with_context(net: NetworkFactory, context_shape: int | Shape) -> Any:
    r"""Turn a factory of networks of x into one of networks of x and a context.

    - An :class:`~pyro_vae.networks.MLP` with hidden layers becomes that of the concatenated inputs, its first layer in
      two parts, :math:`W [x; c] = W_x x + W_c c`, so that the part of x is computed once for all classes.
    - Other fully connected networks, and networks of vectors, such as decoders, take the concatenated inputs.
    - Other networks of images end in a common layer of 200 units, to which the context is added, followed by a linear
      layer: :class:`~pyro_vae.networks.ContextNetwork` around them.
    - An image as the context of a convolutional encoder of images of its size enters as further channels; for all other
      networks it is a vector.

    Args:
        net: a factory, ``net(in_shape, out_shape)``: a class, or a ``partial`` of one.
        context_shape: number of dimensions of the context, or of classes; or its shape, ``(C, H, W)`` for images.

    Returns:
        A factory of networks called as ``net(x, c)``.

    Raises:
        ValueError: ``context_shape`` is empty or not positive.

    Example:
        >>> from pyro_vae.networks import ConvDecoder, ConvEncoder
        >>> factories = partial(MLP, hidden=(50,)), ConvEncoder, ConvDecoder
        >>> shapes = ((1, 8, 8), (4,)), ((1, 8, 8), (4,)), ((2,), (1, 8, 8))
        >>> [type(with_context(n, 3)(*s)).__name__ for n, s in zip(factories, shapes)]
        ['ContextNetwork', 'ContextNetwork', 'ConcatenatedNetwork']
    """
    check_arguments(with_context, locals())
    shape = (context_shape,) if isinstance(context_shape, int) else tuple(context_shape)
    rule, advice = "context_shape must be positive", "Pass the number of classes, or the shape of a context"
    require(bool(shape) and min(shape) > 0, "with_context", rule, f"context_shape={context_shape}", advice)
    if len(shape) > 1:
        return partial(ImageContextNetwork, context_shape=shape, net=net)
    return partial(build_with_context, net, shape[0])


def within(net: Any, wrap: Callable[[Any], Any]) -> Any:
    """Wrap a factory of networks; of one that standardizes its inputs, the network behind them."""
    kind, options = factory_options(net)
    return partial(net, net=wrap(options["net"])) if getattr(kind, "wraps_network", False) else wrap(net)


def with_net(factory: Any, wrap: Callable[[Any], Any]) -> Any:
    """Wrap the network of a factory, or of the guide within it.

    A factory without a network, or with a ready-made module, is returned as it is.
    """
    options = factory_options(factory)[1]
    if callable(net := options.get("net")) and not isinstance(net, nn.Module):
        return partial(factory, net=wrap(net))
    inner = options.get("guide")
    return partial(factory, guide=with_net(inner, wrap)) if callable(inner) else factory


def factory_options(factory: Any) -> tuple[Any, dict[str, Any]]:
    """Class that a factory builds, and its keyword arguments with defaults.

    Args:
        factory: a class, a ``partial`` of one, or a ``partial`` of a function whose argument is the class, as the
            command line builds them.

    Returns:
        The class, or None for other callables, and the arguments.
    """
    options: dict[str, Any] = {}
    kind = factory
    while isinstance(kind, partial):
        options = {**kind.keywords, **options}
        kind = next((a for a in kind.args if inspect.isclass(a)), kind.func)
    if not inspect.isclass(kind):
        return None, options
    parameters = inspect.signature(kind).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
    return kind, {**defaults, **options}


def build_with_context(net: NetworkFactory, context_dim: int, in_shape: Shape, out_shape: Shape) -> nn.Module:
    """Build a network of x and a vector c, see :func:`with_context`."""
    kind, options = factory_options(net)
    if getattr(kind, "wraps_network", False):  # that standardizes x alone
        return within(net, lambda inner: with_context(inner, context_dim))(in_shape, out_shape)
    if kind is MLP and options["hidden"] and not options["dropout"]:
        layers, first = {"hidden": options["hidden"], "activation": options["activation"]}, partial(MLP, hidden=())
        return ContextNetwork(in_shape, out_shape, context_dim=context_dim, net=first, **layers)
    if len(in_shape) == 1 or kind in (MLP, GatedMLP):
        return ConcatenatedNetwork(in_shape, out_shape, context_dim=context_dim, net=net)
    return ContextNetwork(in_shape, out_shape, context_dim=context_dim, net=net)
