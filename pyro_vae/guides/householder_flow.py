"""The Householder flow guide."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vae._core.checks import check_count
from pyro_vae.flows import Flow, HouseholderFlow
from pyro_vae.guides.flow import START, FlowGuide
from pyro_vae.networks import MLP, NetworkFactory, Shape


class HouseholderFlowGuide(FlowGuide):
    r"""Householder flows, :math:`q(z | x) = \mathcal{N}(U \mu, U \mathrm{diag}(\sigma^2) U^\top)`, U orthogonal.

    :math:`U(x)` is a product of T reflections; with T = L it can be any orthogonal matrix of its determinant's sign,
    and the posterior any normal.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        net: builds the encoder.
        num_flows: number of reflections T; an even number starts near the identity.

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    References:
        Improving variational auto-encoders using Householder flow (Tomczak and Welling, 2016), section 3; there each
        vector is a linear map of the one before, here all are outputs of the encoder. https://arxiv.org/abs/1611.09630

    Example:
        >>> import torch
        >>> from pyro_vae.guides import HouseholderFlowGuide
        >>> HouseholderFlowGuide((1, 28, 28), 20).posterior(torch.zeros(5, 1, 28, 28)).rsample().shape
        torch.Size([5, 20])
    """

    start: Tensor

    def __init__(self, data_shape: Shape, latent_dim: int, *, net: NetworkFactory = MLP, num_flows: int = 8) -> None:
        check_count("HouseholderFlowGuide", num_flows=num_flows)
        self.num_flows = num_flows
        super().__init__(data_shape, latent_dim, num_params=num_flows * latent_dim, net=net)
        self.register_buffer("start", paired_units(num_flows, latent_dim), persistent=False)

    def flows(self, params: Tensor) -> Sequence[Flow]:
        vectors = self.start + START * params.unflatten(-1, self.start.shape)  # (*batch, T, L)
        return [HouseholderFlow(v) for v in vectors.unbind(-2)]


def paired_units(num: int, dim: int) -> Tensor:
    """Unit vectors e_1, e_1, e_2, e_2, ..., ``(num, dim)``: two equal reflections cancel."""
    return torch.eye(dim)[torch.arange(num) // 2 % dim]
