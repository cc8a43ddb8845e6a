"""The planar flow guide."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pyro_vae._core.checks import check_count
from pyro_vae.flows import Flow, PlanarFlow
from pyro_vae.guides.flow import START, FlowGuide
from pyro_vae.networks import MLP, NetworkFactory, Shape


class PlanarFlowGuide(FlowGuide):
    r"""Planar flows, :math:`z_t = z_{t - 1} + \hat{u}_t(x) \tanh(w_t(x) \cdot z_{t - 1} + b_t(x))`.

    Each flow changes the density along one direction; several are needed to correlate many dimensions.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        net: builds the encoder.
        num_flows: number of flows T.

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    References:
        Variational inference with normalizing flows (Rezende and Mohamed, 2015), section 4.1; u is kept in bounds by
        its length instead of its direction. https://arxiv.org/abs/1505.05770

    Example:
        >>> import torch
        >>> from pyro_vae.guides import PlanarFlowGuide
        >>> PlanarFlowGuide((1, 28, 28), 20, num_flows=8).posterior(torch.zeros(5, 1, 28, 28)).rsample().shape
        torch.Size([5, 20])
    """

    def __init__(self, data_shape: Shape, latent_dim: int, *, net: NetworkFactory = MLP, num_flows: int = 8) -> None:
        check_count("PlanarFlowGuide", num_flows=num_flows)
        self.num_flows = num_flows
        super().__init__(data_shape, latent_dim, num_params=num_flows * (2 * latent_dim + 1), net=net)

    def flows(self, params: Tensor) -> Sequence[Flow]:
        parts = params.unflatten(-1, (self.num_flows, -1)).unbind(-2)  # (*batch, 2 L + 1) each
        split = [part.split([self.latent_dim, self.latent_dim, 1], -1) for part in parts]
        return [PlanarFlow(START * u, w, b) for u, w, b in split]
