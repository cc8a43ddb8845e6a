"""The inputs of an encoder: standardized numbers, logarithms of counts and one-hot classes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.networks.base import NetworkFactory, Shape, build_network
from pyro_vae.networks.conditioned import with_context, with_net


class InputNetwork(nn.Module):
    r"""A network of standardized inputs, :math:`\mathrm{net}((g(x) - m) / s)`.

    g is log(1 + x) of a count, one-hot vectors of a category, and x itself of other numbers. m and s are means and
    standard deviations of g(x) over the training data, 0 and 1 for one-hot vectors and binary numbers. Missing entries
    remain NaN, for a network that fills them with 0, the mean.

    Args:
        in_shape: shape of one datum x.
        out_shape: shape of one output.
        kinds: the kind of each entry of x, or of all, with its number of levels: ``("category", 3)``; only those of
            categories are used.
        net: builds the network, ``net(in_shape, out_shape)``; if there are categories, ``net((F,), out_shape)`` for the
            F numbers of g(x).

    Shape:
        x ``(*batch, *in_shape)``, with contexts if the network takes any, to the shape of the network's output.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import MLP
        >>> net = InputNetwork((2,), (4,), kinds=[("count", 0), ("category", 3)], net=MLP)
        >>> x = torch.tensor([[3.0, 0.0], [5.0, 2.0]])
        >>> net.initialise([x]).inputs(x)[:, 1:]
        tensor([[1., 0., 0.],
                [0., 0., 1.]])
    """

    wraps_network = True
    loc: Tensor
    unit: Tensor
    counts: Tensor

    def __init__(
        self, in_shape: Shape, out_shape: Shape, *, kinds: Sequence[tuple[str, int]], net: NetworkFactory
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape, self.kinds = tuple(in_shape), tuple(out_shape), list(kinds)
        sizes = [levels if kind == "category" else 1 for kind, levels in self.kinds]
        self.in_groups = any(kind == "category" for kind, _ in self.kinds)
        self.sizes = sizes if len(sizes) > 1 else sizes * math.prod(in_shape)
        shape = (sum(self.sizes),) if self.in_groups else self.in_shape
        self.net = build_network(net, shape, self.out_shape)
        self.register_buffer("loc", torch.zeros(shape))
        self.register_buffer("unit", torch.ones(shape))
        self.register_buffer("counts", self._of_kind("count"), persistent=False)

    def _of_kind(self, *kinds: str) -> Tensor:
        """Whether each number of g(x) is of a kind."""
        flags = [kind in kinds for kind, _ in self.kinds]
        flags = flags if len(flags) > 1 else flags * math.prod(self.in_shape)
        return torch.tensor([flag for flag, size in zip(flags, self.sizes, strict=True) for _ in range(size)])

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        return self.net(self.inputs(x), *context)

    def inputs(self, x: Tensor) -> Tensor:
        """The inputs of the network, ``(*batch, *in_shape)``, or ``(*batch, F)`` with categories."""
        return (self._transformed(x) - self.loc) / self.unit

    def _transformed(self, x: Tensor) -> Tensor:
        if self.in_groups:
            columns = x.flatten(-len(self.in_shape)).unbind(-1)
            parts = [self._one_hot(c, size) for c, size in zip(columns, self.sizes, strict=True)]
            x = torch.cat(parts, -1)
        counts = self.counts.reshape(self.loc.shape)
        return torch.where(counts, x.clamp_min(0).log1p(), x)

    def _one_hot(self, column: Tensor, size: int) -> Tensor:
        column = column.unsqueeze(-1)
        one_hot = (column == torch.arange(size, device=column.device)).to(column.dtype)
        return column if size == 1 else torch.where(column.isnan(), column, one_hot)

    @torch.no_grad()
    def initialise(self, batches: Iterable[Tensor]) -> InputNetwork:
        """Set means and standard deviations to those of data, in batches ``(B, *in_shape)``; NaN is left out.

        Returns:
            The network itself.
        """
        loc, unit = moments(self._transformed(x) for x in batches)
        fixed = self._of_kind("category", "binary").reshape(loc.shape).to(loc.device)
        self.loc.copy_(torch.where(fixed, 0.0, loc))
        self.unit.copy_(torch.where(fixed, 1.0, unit))
        return self


class StandardizedContextNetwork(nn.Module):
    r"""A network of x and a context in the units of an :class:`InputNetwork`, :math:`\mathrm{net}(x, (g(c) - m) / s)`.

    Args:
        in_shape: shape of x.
        out_shape: shape of one output.
        context_shape: shape of c.
        kinds: kinds of the entries of c, as of :class:`InputNetwork`.
        net: builds the network of x, which gets the context by :func:`~pyro_vae.networks.with_context`.

    Shape:
        x ``(*batch, *in_shape)`` and c ``(*batch', *context_shape)``, whose leading dimensions broadcast to ``all``, to
        ``(*all, *out_shape)``.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import MLP
        >>> kinds = [("real", 0), ("category", 3)]
        >>> net = StandardizedContextNetwork((2,), (1, 8, 8), context_shape=(2,), kinds=kinds, net=MLP)
        >>> net(torch.zeros(5, 1, 2), torch.zeros(7, 2)).shape
        torch.Size([5, 7, 1, 8, 8])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        context_shape: Shape,
        kinds: Sequence[tuple[str, int]],
        net: NetworkFactory,
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        identity: Any = lambda *shapes: nn.Identity()  # noqa: E731
        self.context = InputNetwork(context_shape, context_shape, kinds=kinds, net=identity)
        self.net = with_context(net, tuple(self.context.loc.shape))(in_shape, out_shape)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.net(x, self.context(context))


@torch.no_grad()
def moments(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the data of each entry, in float64; 1 if an entry is constant, NaN left out.

    Args:
        batches: data, ``(B, *shape)``; the first batch is subtracted before squares are summed, for their precision.

    Returns:
        Both of shape ``shape``.
    """
    shift: Any = None
    count = total = squares = torch.zeros(())
    for batch in batches:
        x = batch.double()
        shift = x.nanmean(0).nan_to_num() if shift is None else shift
        present, difference = ~x.isnan(), (x - shift).nan_to_num()
        count, total = count + present.sum(0), total + difference.sum(0)
        squares = squares + difference.square().sum(0)
    mean = total / count.clamp_min(1)
    variance = (squares / count.clamp_min(1) - mean.square()).clamp_min(0)
    constant = variance <= 1e-28 * (shift + mean).square()  # up to the rounding of the first mean
    return shift + mean, torch.where(constant, 1.0, variance).sqrt()


def with_inputs(factory: Any, kinds: Sequence[tuple[str, int]]) -> Any:
    """Wrap the network of a factory of guides, or of that of the guide within it, into an :class:`InputNetwork`.

    A factory without a network, or with a ready-made module, is returned as it is.
    """
    return with_net(factory, lambda net: partial(InputNetwork, kinds=tuple(kinds), net=net))
