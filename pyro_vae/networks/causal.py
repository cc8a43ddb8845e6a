"""Base class of causal networks: the outputs for an entry of an image depend on the entries before it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from pyro_vae._core.checks import CheckedArguments, check_shape, require
from pyro_vae.networks.base import Shape
from pyro_vae.networks.region import Pixel, WholeImage


class CausalNetwork(nn.Module, CheckedArguments, ABC):
    r"""A network whose outputs for a site depend on the sites before it, :math:`f_s(x_{<s}, c)`, and on a context.

    The sites are the entries of x in raster order, the channels of a pixel one after the other; with
    ``joint_channels`` they are the pixels, whose outputs depend on no channel of the pixel itself.

    Args:
        in_shape: shape of x: ``(C, H, W)``; any other shape counts as entries in a row.
        out_shape: n outputs per site: ``(n C, H, W)`` for an image, of which the channels c, C + c, ... belong to the
            channel c of x; ``(n, H, W)`` with ``joint_channels``; ``(n, *in_shape)`` or ``in_shape`` for other shapes.
        context_shape: shape of the context: empty for none, ``(D,)`` of a class or a latent, ``(C', H, W)`` of an
            image.
        joint_channels: whether the outputs of a pixel describe all its channels.

    Shape:
        x ``(*batch, *in_shape)`` and the context ``(*batch', *context_shape)``, whose leading dimensions broadcast to
        ``all``, to ``(*all, *out_shape)``.

    Attributes:
        order: sites, as indices of the flattened x or of the pixels, in the order in which they depend on each other.
        num_outputs: n.

    Raises:
        ValueError: the shapes do not fit; at a call: the input or the context has another shape.
    """

    order: list[int]

    def __init__(
        self, in_shape: Shape, out_shape: Shape, *, context_shape: Shape = (), joint_channels: bool = False
    ) -> None:
        super().__init__()
        name, shapes = type(self).__name__, {"in_shape": in_shape, "out_shape": out_shape}
        for key, shape in shapes.items():
            require(len(shape) > 0, name, f"{key} must not be empty", f"{key}=()")
        self.in_shape, self.out_shape, self.context_shape = tuple(in_shape), tuple(out_shape), tuple(context_shape)
        image = len(in_shape) == 3
        self.channels_of_data = in_shape[0] if image else 1
        self.size: tuple[int, int] = (in_shape[1], in_shape[2]) if image else (1, math.prod(in_shape))
        self.channels_per_site = self.channels_of_data if joint_channels else 1
        self.num_sites = math.prod(in_shape) // self.channels_per_site
        self.num_outputs = math.prod(out_shape) // self.num_sites
        _check_outputs(name, self, image)
        self.order = self.raster_order()

    def raster_order(self) -> list[int]:
        """The sites pixel by pixel, the channels of a pixel one after the other."""
        pixels = math.prod(self.size)
        return [s + c * pixels for s in range(pixels) for c in range(self.num_sites // pixels)]

    @property
    def receptive_field(self) -> int | None:
        """Largest distance, in rows or columns, of a pixel that an output depends on; None for any distance."""
        return None

    @abstractmethod
    def transform(self, x: Tensor, context: Tensor | None, region: Any) -> Tensor:
        """Compute the outputs of a region.

        Args:
            x: ``(N, *in_shape)``; sites that are not before those of the region may hold any finite values.
            context: ``(N, *context_shape)``, or None.
            region: :class:`~pyro_vae.networks.region.WholeImage`, or ``Pixel`` for the next site.

        Returns:
            ``(N, n * num_sites)`` numbers in any shape for the whole image, ``(N, n)`` for a site.
        """

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        name, split = type(self).__name__, x.dim() - len(self.in_shape)
        check_shape(name, "the input", x.shape[max(split, 0) :], self.in_shape, "Build the network with its shape")
        x, context = self.broadcast(x, context)
        batch = x.shape[:split] if context is None else x.shape[: x.dim() - len(self.in_shape)]
        flat = None if context is None else context.reshape(-1, *self.context_shape)
        y = self.transform(x.reshape(-1, *self.in_shape), flat, WholeImage())
        return y.reshape(*batch, *self.out_shape)

    def broadcast(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Expand input and context to common leading dimensions.

        Raises:
            ValueError: the context is missing, superfluous or of another shape.
        """
        shape = () if context is None else tuple(context.shape)
        event = shape[max(len(shape) - len(self.context_shape), 0) :]
        rule = f"the context must have shape {self.context_shape}"
        valid = event == self.context_shape and (context is None) == (not self.context_shape)
        what, advice = f"{'none' if context is None else shape}", "Build the network with its context_shape"
        require(valid, type(self).__name__, rule, what, advice)
        if context is None:
            return x, None
        split = x.dim() - len(self.in_shape)
        batch = torch.broadcast_shapes(x.shape[:split], shape[: len(shape) - len(event)])
        return x.expand(*batch, *self.in_shape), context.expand(*batch, *event)

    def outputs_at(self, x: Tensor, context: Tensor | None, step: int) -> Tensor:
        """Outputs ``(N, n)`` of the site of a step by a full pass, for the arguments of :meth:`advance`."""
        outputs = self.transform(x, context, WholeImage())
        return outputs.reshape(len(x), self.num_outputs, self.num_sites)[..., self.order[step]]

    @torch.no_grad()
    def advance(self, x: Tensor, context: Tensor | None, step: int, store: dict[Any, Any]) -> Tensor:
        """Compute the outputs of the next site at the cost of that site.

        Args:
            x: ``(N, *in_shape)``, of which the sites of the steps before are known.
            context: ``(N, *context_shape)``, or None.
            step: number of sites that are known; every step from 0 on must be made, in turn.
            store: features of the steps before; empty at step 0.

        Returns:
            ``(N, n)``, equal to :meth:`outputs_at` of a full pass up to rounding.
        """
        pixel, channel = divmod(step, self.num_sites // math.prod(self.size))
        return self.transform(x, context, Pixel(store, divmod(pixel, self.size[1]), self.size, channel))


CausalNetworkFactory: TypeAlias = Callable[[Shape, Shape], CausalNetwork]


def _check_outputs(name: str, net: CausalNetwork, image: bool) -> None:
    shape, n = net.out_shape, net.num_outputs
    channels = n * net.channels_of_data // net.channels_per_site
    expected = [(channels, *net.in_shape[1:])] if image else [(n, *net.in_shape), net.in_shape][: 1 + (n == 1)]
    rule = "out_shape must hold the same number of outputs for every site of in_shape"
    got = f"in_shape={net.in_shape}, out_shape={shape}"
    advice = "Use (n C, H, W) for an image (C, H, W), and (n, *in_shape) otherwise"
    require(n >= 1 and shape in expected, name, rule, got, advice)
