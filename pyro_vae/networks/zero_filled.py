"""Networks of incomplete data."""

from __future__ import annotations

from torch import Tensor

from pyro_vae.networks.base import Network, NetworkFactory, Shape
from pyro_vae.networks.conditioned import with_context
from pyro_vae.networks.mlp import MLP


class ZeroFilledNetwork(Network):
    r"""Network of data with missing entries, :math:`\mathrm{net}(m \odot x; m)`, with the mask m as a context.

    Entries that are NaN are missing: they enter as 0, with m = 0. It is the encoder of a model of incomplete data,
    ``VAE(..., missing=True)``.

    Args:
        in_shape: shape of one datum x of D entries.
        out_shape: shape of one output.
        net: builds the network of x, ``net(in_shape, out_shape)``, which receives the D entries of m as a context by
            :func:`~pyro_vae.networks.conditioned.with_context`.

    References:
        MIWAE: deep generative modelling and imputation of incomplete data sets (Mattei and Frellsen, 2019):
        zero-filled data. https://arxiv.org/abs/1812.02633

    Example:
        >>> import torch
        >>> from functools import partial
        >>> net = ZeroFilledNetwork((3,), (2, 4), net=partial(MLP, hidden=(50,)))
        >>> net(torch.tensor([0.5, torch.nan, 1.0])).isfinite().all()
        tensor(True)
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, *, net: NetworkFactory = MLP) -> None:
        super().__init__(in_shape, out_shape)
        self.net = with_context(net, self.in_size)(self.in_shape, self.out_shape)

    def transform(self, x: Tensor) -> Tensor:
        missing = x.isnan()
        return self.net(x.masked_fill(missing, 0.0), (~missing).flatten(1).to(x.dtype))
